"""Rules of simulated devices: what cannot be is refused with a way out, and who is told of it."""

import pytest

from fedtune.errors import RecipeError
from fedtune.recipe.load import Loaded, parse_recipe
from fedtune.recipe.rules import ALL_RULES
from fedtune.recipe.rules_simulation import SIMULATION_RULES

MIXES = {
    # the rule: what breaks it, a part of the sentence, the way out
    "_two_speeds": (
        ["simulation.rows_per_s = 1.0", 'simulation.device_classes = ["a=1:2"]'],
        "take one of the two out",
        ["simulation.rows_per_s = 1.0"],
    ),
    "_classes_that_cannot_be": (
        ['simulation.device_classes = ["a=1:2", "b=1:0"]'],
        '"b=1:0" needs a share and a speed above 0',
        ['simulation.device_classes = ["a=1:2", "b=0.5:1.5"]'],
    ),
    "_trace_without_a_file": (
        ['simulation.availability = "trace"'],
        "needs simulation.trace",
        ['simulation.availability = "trace"', 'simulation.trace = "online.csv"'],
    ),
    "_split_in_virtual_time": (
        ["simulation.rows_per_s = 1.0", "split.head_layers = 1"],
        "take [simulation] out",
        ["simulation.rows_per_s = 1.0"],
    ),
}


def load(lines: list[str]) -> Loaded:
    return parse_recipe("\n".join(['model.name = "minilm"', 'data.source = "x"', *lines]), [], name="mix.toml")


def test_every_rule_is_tried_here_and_held_everywhere() -> None:
    assert set(MIXES) == {rule.name for rule in SIMULATION_RULES}
    assert set(SIMULATION_RULES) <= set(ALL_RULES)


@pytest.mark.parametrize("name", MIXES)
def test_a_broken_rule_says_why_and_the_way_out_leads_out(name: str) -> None:
    broken, expected, mended = MIXES[name]
    with pytest.raises(RecipeError) as caught:
        load(broken)
    assert expected in str(caught.value)
    load(mended)


def test_a_trace_that_nobody_reads_and_points_that_are_no_number_are_refused() -> None:
    with pytest.raises(RecipeError, match="read by availability"):
        load(['simulation.trace = "online.csv"'])
    with pytest.raises(RecipeError, match="needs a share and a speed"):
        load(['simulation.device_classes = ["a=1.2.3:4"]'])


@pytest.mark.parametrize(
    "line", ['device_classes = ["phone"]', 'failures = ["client-1"]', 'failures = ["client-1=0"]', "online_share = 0.0"]
)
def test_values_that_say_nothing_are_refused(line: str) -> None:
    with pytest.raises(RecipeError, match=r"mix\.toml, line 3"):
        load([f"simulation.{line}"])


def test_clients_are_told_nothing_of_it_and_it_is_no_part_of_what_both_sides_agree_on() -> None:
    plain, timed = (load(lines).recipe for lines in ([], ["simulation.rows_per_s = 1.0"]))
    assert timed.for_clients() == plain.for_clients()
    assert timed.fingerprint() == plain.fingerprint()
    assert (plain.simulation.active, timed.simulation.active) == (False, True)
