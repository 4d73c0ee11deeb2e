"""What a study compares: methods, splits, seeds and learning rates, and the cells that these make."""

from collections.abc import Iterator, Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

Settings = tuple[str, ...]
"""`KEY=VALUE` overrides of a recipe."""


class Cell(BaseModel):
    """One simulation of a study."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Literal["tuning", "report"]
    """Cells of `tuning` choose a learning rate; those of `report` are what the study says."""
    method: str
    """The contender's name."""
    split: str
    seed: int
    lr: float

    @property
    def name(self) -> str:
        """Fit for a file name, and another for every cell of a study."""
        return f"{self.stage}_{self.method}_{self.split}_seed{self.seed}_lr{self.lr:g}"


class Contender(BaseModel):
    """A method as it takes part.

    Guarantees: it has rates of its own, or takes those of another contender.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: Settings
    """What the method is given beside its name, such as its rank."""
    rates: tuple[float, ...] = ()
    """The learning rates to choose from."""
    method: str = ""
    """The method, where the contender has another name than that."""
    rate_of: str = ""
    """The contender whose chosen rate this one trains at, where it has no rates."""

    @model_validator(mode="after")
    def _knows_its_rate(self) -> Self:
        if bool(self.rates) is bool(self.rate_of):
            raise ValueError("a contender has rates, or takes that of another")
        return self


class Plan(BaseModel):
    """A whole study.

    Guarantees: no test row is learned from or tuned on, and the seed that rates are chosen with is none of `seeds`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: str
    """`full` or `quick`."""
    about: str = "aggregation"
    """What the reading calls the study."""
    base: str
    """The TOML text of the recipe that every cell changes."""
    test_rows: int
    """Rows of the data set that are the central test of every cell, the same for all; at most `data.max_rows`."""
    tuning_rows: int = 0
    """Rows of the data set that are public, for choosing rates by where clients say nothing of their own rows; 0 where
    rates are chosen on what the clients hold out."""
    contenders: Mapping[str, Contender]
    """By name: that of their method, where they say no other."""
    splits: Mapping[str, Settings]
    """By a name for the table."""
    seeds: tuple[int, ...]
    tuning_split: str
    tuning_seed: int
    settings: Settings = ()
    """What this form lays over `base`."""

    def tuning_cells(self) -> Iterator[Cell]:
        """Every learning rate of every method, on one split and one seed."""
        for method, contender in self.contenders.items():
            for lr in contender.rates:
                yield Cell(stage="tuning", method=method, split=self.tuning_split, seed=self.tuning_seed, lr=lr)

    def report_cells(self, rates: Mapping[str, float]) -> Iterator[Cell]:
        """Every method on every split, seed after seed, at its rate: a part of the list has whole seeds."""
        for seed in self.seeds:
            for method in self.contenders:
                for split in self.splits:
                    yield Cell(stage="report", method=method, split=split, seed=seed, lr=rates[method])

    def grid(self, method: str) -> tuple[float, ...]:
        """The learning rates that a contender, or the one whose rate it takes, chooses from."""
        contender = self.contenders[method]
        return contender.rates or self.contenders[contender.rate_of].rates

    def size(self) -> int:
        """How many cells there are."""
        tuning = sum(len(contender.rates) for contender in self.contenders.values())
        return tuning + len(self.seeds) * len(self.contenders) * len(self.splits)
