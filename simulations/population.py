"""The virtual clients of a recipe: their names, and each one's rows as a view of one encoded table."""

from collections.abc import Sequence
from dataclasses import dataclass

from client.bench import Bench
from fedtune.data.base import ClientData
from fedtune.data.client import client_data
from fedtune.data.encode import encode
from fedtune.data.rows import EncodedRows
from fedtune.data.split import held_out
from fedtune.data.table import tables
from fedtune.errors import DataError
from fedtune.recipe import Recipe
from fedtune.training.resident import resident
from simulations.names import client_name, position_of
from simulations.partition import partition
from simulations.sampled import SampledParts


@dataclass(frozen=True, slots=True)
class Population:
    """Clients `client-0` … and who holds which row."""

    recipe: Recipe
    rows: EncodedRows
    parts: Sequence[list[int]]
    """Under `sampled` each is drawn when it is asked for."""

    @classmethod
    def of(cls, recipe: Recipe) -> "Population":
        """Read, divide and encode the recipe's data; raises DataError."""
        if not recipe.data.source:
            raise DataError("a simulation needs data.source: a packaged set, a file or a folder")
        table = tables(recipe.data, recipe.model, recipe.run.seed).train
        parts = partition(table, recipe.data, label="label", seed=recipe.run.seed)
        return cls(recipe, encode(table, resident(recipe).loaded, recipe.model), parts)

    @property
    def names(self) -> list[str]:
        """The clients' names, in the order of their parts."""
        return [client_name(position) for position in range(len(self.parts))]

    def __call__(self, client: str, _: Bench) -> ClientData:
        """One client's rows, as a workplace asks for them; raises DataError where it holds none."""
        return self.data(client)

    def data(self, client: str) -> ClientData:
        """One client's rows; raises DataError where it holds none."""
        part = self.parts[position_of(client)]
        return client_data(self.rows.subset(part), self.recipe.data, seed=self.recipe.run.seed, client=client)

    def rows_of(self, client: str) -> int:
        """How many rows a client learns from, without them being read."""
        return self.sizes(client)[0]

    def sizes(self, client: str) -> tuple[int, int]:
        """How many rows a client learns from and how many it holds out, without them being read."""
        position = position_of(client)
        rows = self.parts.size(position) if isinstance(self.parts, SampledParts) else len(self.parts[position])
        held = held_out(rows, self.recipe.data.holdout_fraction)
        return rows - held, held
