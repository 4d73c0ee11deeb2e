"""Rules of asynchronous rounds: what needs a round's updates together is refused, and the ways out lead out."""

import pytest

from fedtune.errors import RecipeError
from fedtune.recipe.rules import ALL_RULES
from fedtune.recipe.rules_buffer import BUFFER_RULES
from tests.recipe.mixes import OPEN, load

BUFFER = {"federation.buffer": "4", "federation.concurrency": "8"}
SYNCHRONOUS = {"federation.buffer": OPEN, "federation.concurrency": OPEN}
PRIVATE = {
    "privacy.unit": '"example"',
    "privacy.epsilon": "8.0",
    "privacy.delta": "1e-5",
    "privacy.sampling_rate": "0.1",
    "training.steps": "10",
}
MIXES: dict[str, tuple[dict[str, str], str, dict[str, str]]] = {
    # the rule: what breaks it beside a buffer, a part of the sentence, the way out beside taking the buffer out
    "_options_without_a_buffer": (SYNCHRONOUS | {"federation.max_staleness": "4"}, "set federation.buffer", BUFFER),
    "_buffer_with_clients_per_round": (
        {"federation.clients_per_round": "8", "federation.over_select": "0.5"},
        "take clients_per_round and over_select out",
        {"federation.clients_per_round": OPEN, "federation.over_select": OPEN},
    ),
    "_more_replies_than_the_buffer": (
        {"federation.min_replies": "5"},
        "no round would count",
        {"federation.buffer": "5"},
    ),
    "_buffer_with_unit": (PRIVATE, "speed decides who takes part", dict.fromkeys(PRIVATE, OPEN)),
    "_buffer_with_scheme": (
        {"adapter.kind": '"lora"', "aggregation.scheme": '"fedex"'},
        'take scheme = "mean"',
        {"aggregation.scheme": '"mean"'},
    ),
    "_buffer_with_rule": (
        {"aggregation.rule": '"median"'},
        "old updates differ too",
        {"aggregation.rule": '"mean"'},
    ),
    "_buffer_with_diagnose": ({"aggregation.diagnose": "true"}, "take diagnose out", {"aggregation.diagnose": "false"}),
    "_buffer_with_scaffold": ({"training.scaffold": "true"}, "take scaffold out", {"training.scaffold": "false"}),
    "_buffer_with_head_layers": ({"split.head_layers": "1"}, "a split model", {"split.head_layers": '"none"'}),
    "_buffer_with_download": (
        {"compression.download": '["int8"]'},
        "take download out",
        {"compression.download": "[]"},
    ),
    "_buffer_with_holdout_fraction": (
        {"data.holdout_fraction": "0.2"},
        "set data.test_fraction or test_source",
        {"data.holdout_fraction": "0.0"},
    ),
}


def test_every_rule_is_tried_here_and_held_everywhere() -> None:
    assert set(MIXES) == {rule.name for rule in BUFFER_RULES}
    assert set(BUFFER_RULES) <= set(ALL_RULES)


@pytest.mark.parametrize("name", MIXES)
def test_a_broken_rule_says_why_and_every_way_out_leads_out(name: str) -> None:
    broken, expected, mended = MIXES[name]
    with pytest.raises(RecipeError) as caught:
        load(BUFFER, broken)
    assert expected in str(caught.value)
    load(BUFFER, broken, mended)
    if "federation.buffer out" in str(caught.value):
        load(BUFFER, broken, SYNCHRONOUS)


def test_a_bad_rule_before_the_mean_is_refused_as_the_rule_is() -> None:
    with pytest.raises(RecipeError, match="before_rule tell bad updates"):
        load(BUFFER, {"aggregation.before_rule": '["nnm"]', "aggregation.rule": '"trimmed-mean"'})


@pytest.mark.parametrize(
    "keys",
    [
        {"method": '"fed-sb"'},
        {"method": '"ffa-lora"'},
        {"method": '"fedit"'},
        {"method": '"ravan"'},
        {"adapter.kind": '"full"'},
        {"aggregation.server_optimizer": '"adam"'},
        {"compression.upload": '["ternary", "entropy"]'},
        {"federation.ranks": '["*7=2"]'},
        {"compression.feedback": '"ef21"', "compression.upload": '["top-k"]'},
    ],
    ids=lambda keys: next(iter(keys.values())),
)
def test_what_is_a_mean_of_updates_may_be_buffered_and_clients_are_told_nothing_of_it(keys: dict[str, str]) -> None:
    synchronous, buffered = load(keys).recipe, load(BUFFER, keys).recipe
    assert buffered.federation.buffer == 4
    assert buffered.for_clients() == synchronous.for_clients()
