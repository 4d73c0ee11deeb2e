"""The devices of a recipe: its models put together, its trace and its list of failures read."""

from collections.abc import Callable, Sequence
from pathlib import Path

from fedtune.recipe import Recipe
from simulations.devices.availability import Always, Availability, Diurnal, Traced
from simulations.devices.failures import Failures
from simulations.devices.trace import read_trace
from simulations.devices.trip import Devices


def make_devices(recipe: Recipe, names: Sequence[str], sizes: Callable[[str], tuple[int, int]]) -> Devices:
    """The devices of clients of these names, who hold `sizes(name)` = (training, held-out) rows; raises DataError."""
    failures = Failures(recipe.simulation, recipe.run.seed, frozenset(names) if recipe.simulation.failures else ())
    return Devices(recipe, sizes, _AVAILABILITY[recipe.simulation.availability](recipe, names), failures)


def _always(_: Recipe, names: Sequence[str]) -> Availability:
    return Always(len(names))


def _diurnal(recipe: Recipe, names: Sequence[str]) -> Availability:
    section = recipe.simulation
    return Diurnal(
        names,
        share=section.online_share,
        day_s=section.day_s,
        phase_spread=section.phase_spread,
        seed=recipe.run.seed,
    )


def _traced(recipe: Recipe, names: Sequence[str]) -> Availability:
    return Traced(names, read_trace(Path(recipe.simulation.trace), frozenset(names)))


_AVAILABILITY: dict[str, Callable[[Recipe, Sequence[str]], Availability]] = {
    "always": _always,
    "diurnal": _diurnal,
    "trace": _traced,
}
