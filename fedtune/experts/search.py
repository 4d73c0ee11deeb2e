"""Which density and scale suit an adapter: all tried on labelled rows, as in ComPEFT (arXiv 2311.13171)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from fedtune.experts.compressed import Head, compress
from fedtune.experts.expert import Expert
from fedtune.recipe.compression import CompressionSection
from fedtune.training.base import Score

DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.5)
ALPHAS = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


@dataclass(frozen=True, slots=True)
class Tried:
    """One setting and what came of it."""

    section: CompressionSection
    score: Score

    @property
    def scale(self) -> str:
        """The scale for a table: `least-squares`, or the factor and σ."""
        return self.section.scale if self.section.scale == "least-squares" else f"{self.section.alpha:g}σ"


def settings(densities: Sequence[float] = DENSITIES, alphas: Sequence[float] = ALPHAS) -> Iterator[CompressionSection]:
    """The least-squares scale and every factor, for every density."""
    for density in densities:
        yield CompressionSection(density=density)
        yield from (CompressionSection(density=density, scale="sigma", alpha=alpha) for alpha in alphas)


def try_all(
    expert: Expert, score: Callable[[Expert], Score], sections: Iterable[CompressionSection], *, head: Head
) -> Iterator[Tried]:
    """Each setting with its score, one after another: of the adapter as it comes back from the file."""
    for section in sections:
        packed = compress(expert, section, coder="bitmask", head=head)  # the fastest; all give the same numbers back
        yield Tried(section, score(packed.expert()))


def best_of(tried: Sequence[Tried]) -> Tried:
    """The most right predictions; of equals the least loss, then the least density. NaN is the worst loss."""
    return min(tried, key=lambda one: (-one.score.correct, _worst(one.score.loss), one.section.density))


def _worst(loss: float) -> float:
    return loss if loss == loss else float("inf")  # noqa: PLR0124 - only NaN is not itself
