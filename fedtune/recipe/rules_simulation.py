"""Rules of simulated devices: which keys need one another, and what virtual time cannot be told of."""

from fedtune.recipe.recipe import Recipe
from fedtune.recipe.rule import Rule, into

SIMULATION_RULES: list[Rule] = []
"""In the order of this file."""

refuses = into(SIMULATION_RULES)


@refuses("simulation.device_classes", "simulation.rows_per_s")
def _two_speeds(r: Recipe) -> str | None:
    section = r.simulation
    if not section.device_classes or not section.rows_per_s:
        return None
    return "simulation.device_classes names the speeds of rows_per_s: take one of the two out"


@refuses("simulation.device_classes")
def _classes_that_cannot_be(r: Recipe) -> str | None:
    for entry in r.simulation.device_classes:
        if not all(_positive(number) for number in entry.partition("=")[2].split(":")):
            return f'simulation.device_classes: "{entry}" needs a share and a speed above 0, as in "phone=0.7:4"'
    return None


@refuses("simulation.trace", "simulation.availability")
def _trace_without_a_file(r: Recipe) -> str | None:
    if (r.simulation.availability == "trace") == bool(r.simulation.trace):
        return None
    if r.simulation.trace:
        return 'simulation.trace is read by availability = "trace" alone: set that too, or take trace out'
    return 'simulation.availability = "trace" needs simulation.trace, a CSV file with the columns client, start and end'


@refuses("simulation", "split.head_layers")
def _split_in_virtual_time(r: Recipe) -> str | None:
    if not r.simulation.active or not r.split.active:
        return None
    return (
        "virtual time does not reckon what a split model sends amid its training; take [simulation] out, or "
        'set split.head_layers = "none"'
    )


def _positive(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False
