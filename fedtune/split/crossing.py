"""What crosses the cuts, by formula: tokens of activations and gradients each way, and their bytes."""

from dataclasses import dataclass

from fedtune.recipe.split import SplitSection
from fedtune.split.activations import encoded_bytes
from fedtune.split.cut import Cut
from fedtune.split.family import Family


@dataclass(frozen=True, slots=True)
class Ways:
    """Bytes up (from the client) and down."""

    up: float
    down: float

    @property
    def both(self) -> float:
        """Up and down together."""
        return self.up + self.down

    def __add__(self, other: "Ways") -> "Ways":
        return Ways(self.up + other.up, self.down + other.down)

    def __mul__(self, times: float) -> "Ways":
        return Ways(self.up * times, self.down * times)


@dataclass(frozen=True, slots=True)
class Crossing:
    """Tokens of one row that cross the cuts in one pass."""

    smashed: int
    """Up: activations behind the head, prompts among them."""
    output: int
    """Down: of the body's output, as many as the tail reads; up again: their gradients, where one comes back."""
    gradient: int
    """Down: gradients at the first cut; 0 where the client trains nothing before it."""
    goes_back: bool
    """Does a gradient go up? Not where nothing before the tail is trained, in the head or in the body."""

    @classmethod
    def of(cls, split: SplitSection, cut: Cut, family: Family, tokens: int) -> "Crossing":
        """For rows of `tokens` tokens without prompts; the parts that `Wants` leaves out are left out."""
        own, every = tokens, tokens + split.prompt_tokens
        if cut.tail:
            output = every
        elif family.reads_first:
            output = 1
        else:
            output = own if family.task == "causal-lm" else every
        gradient = _gradient(split, cut, every)
        return cls(every, output, gradient, goes_back=bool(gradient) or split.trains_body)

    def bytes(self, split: SplitSection, width: int, rows: int = 1) -> Ways:
        """Of one pass of a micro-batch of `rows`, encoded as the recipe has it; message headers are left out."""
        smashed, output, gradient = (
            encoded_bytes((rows, tokens, width), split.activations, split.topk) if tokens else 0
            for tokens in (self.smashed, self.output, self.gradient)
        )
        return Ways(smashed + output, output + gradient) if self.goes_back else Ways(smashed, output)


def _gradient(split: SplitSection, cut: Cut, every: int) -> int:
    if split.train_head and cut.head:
        return every
    if not split.prompt_tokens:
        return 0
    return split.prompt_tokens if split.prompt_at == "cut" or not cut.head else every


def break_even(federated: Ways, update: Ways, row: Ways) -> float | None:
    """Sample passes a round at which a split round sends as much as a federated one, both ways added.

    `federated` is a federated round's update, `update` the split round's own, `row` one row's pass. None where the
    split never sends less.
    """
    saved = federated.both - update.both
    return saved / row.both if saved > 0 else None
