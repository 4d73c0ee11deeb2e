"""Rules of privacy: each mix that would break a promise is refused on its line, and the way out it names leads out."""

import pytest

from fedtune.errors import RecipeError
from fedtune.recipe.rules_client import CLIENT_RULES
from fedtune.recipe.rules_example import EXAMPLE_RULES
from fedtune.recipe.rules_privacy import PRIVACY_RULES
from tests.recipe.mixes import OPEN, load

EXAMPLE = {
    "privacy.unit": '"example"',
    "privacy.epsilon": "3.0",
    "privacy.delta": "1e-5",
    "privacy.sampling_rate": "0.05",
    "training.steps": "5",
}
CLIENT = {
    "privacy.unit": '"client"',
    "privacy.epsilon": "3.0",
    "privacy.delta": "1e-5",
    "privacy.sampling_rate": "0.1",
    "privacy.population": "100",
}
LOCAL = {"privacy.unit": '"client"', "privacy.noise": '"client"', "privacy.epsilon": "3.0", "privacy.delta": "1e-5"}
BANDED = {
    **{key: value for key, value in CLIENT.items() if key != "privacy.sampling_rate"},
    "privacy.mechanism": '"banded"',
    "privacy.min_separation": "4",
    "federation.clients_per_round": "10",
}

MIXES: dict[str, tuple[dict[str, str], dict[str, str], str, dict[str, str]]] = {
    # rule: (the sound recipe, what breaks it, a part of the sentence, what mends it)
    "_keys_without_a_unit": ({}, {"privacy.clip": "0.5"}, "has no effect", {"privacy.clip": OPEN}),
    "_delta_is_open": (EXAMPLE, {"privacy.delta": OPEN}, "nothing in the recipe implies it", {"privacy.delta": "1e-6"}),
    "_no_amount_of_noise": (CLIENT, {"privacy.epsilon": OPEN}, "set epsilon", {"privacy.noise_multiplier": "1.0"}),
    "_delta_too_large": (CLIENT, {"privacy.delta": "0.05"}, "published as a whole", {"privacy.delta": "0.001"}),
    "_keys_of_another_unit": (EXAMPLE, {"privacy.population": "9"}, 'is for privacy.unit = "client"', {}),
    "_private_gradient_under_privacy": (
        EXAMPLE,
        {"adapter.init": '"private-gradient"'},
        'or to "dp-gradient"',
        {"adapter.init": '"dp-gradient"'},
    ),
    "_noised_gradient_without_privacy": (
        CLIENT,
        {"adapter.init": '"dp-gradient"'},
        "adds noise that",
        {"adapter.init": '"weights"'},
    ),
    "_example_counts_under_privacy": (
        EXAMPLE,
        {"aggregation.weights": '"capped"'},
        "tells how many rows",
        {"aggregation.weights": '"uniform"'},
    ),
    "_control_variates_under_privacy": (CLIENT, {"training.scaffold": "true"}, "beside their updates", {}),
    "_early_stop_on_private_scores": (
        EXAMPLE,
        {"federation.early_stop": "2", "data.test_fraction": "0.0", "data.holdout_fraction": "0.1"},
        "scores of private rows",
        {"privacy.metrics": '"noised"'},
    ),
    "_withheld_evaluation": (
        EXAMPLE,
        {"federation.evaluate_clients": "2", "data.holdout_fraction": "0.1"},
        "withhold under privacy",
        {"privacy.metrics": '"noised"'},
    ),
    "_noised_metrics_of_nothing": (
        EXAMPLE,
        {"privacy.metrics": '"noised"'},
        "hold out",
        {"data.holdout_fraction": "0.1"},
    ),
    "_no_rate_of_rows": (
        EXAMPLE,
        {"privacy.sampling_rate": OPEN},
        "the same number for all",
        {"privacy.sampling_rate": "0.1"},
    ),
    "_epochs_under_privacy": (EXAMPLE, {"training.steps": OPEN}, "counting epochs", {"training.steps": "3"}),
    "_checkpointing_under_privacy": (EXAMPLE, {"training.gradient_checkpointing": "true"}, "hides activations", {}),
    "_compile_under_privacy": (EXAMPLE, {"training.compile": "true"}, "bypasses the hooks", {}),
    "_clip_twice": (
        EXAMPLE,
        {"training.max_grad_norm": "1.0"},
        "after its noise",
        {"training.max_grad_norm": '"none"'},
    ),
    "_library_adapters_under_privacy": (
        EXAMPLE,
        {"adapter.kind": '"peft"', "adapter.peft_type": '"vera"'},
        "cannot be taken",
        {"adapter.kind": OPEN, "adapter.peft_type": OPEN},
    ),
    "_population_is_open": (
        CLIENT,
        {"privacy.population": OPEN},
        "never by how many replied",
        {"privacy.population": "9"},
    ),
    "_no_rate_of_clients": (
        CLIENT,
        {"privacy.sampling_rate": OPEN},
        "claim no amplification",
        {"privacy.sampling_rate": "1.0"},
    ),
    "_rate_without_sampling": (
        BANDED,
        {"privacy.sampling_rate": "0.1"},
        "draws no sample",
        {"privacy.sampling_rate": OPEN},
    ),
    "_fixed_number_of_clients": (CLIENT, {"federation.clients_per_round": "5"}, "a sample of fixed size", {}),
    "_banded_without_a_number": (
        BANDED,
        {"federation.clients_per_round": OPEN},
        "must be public",
        {"federation.clients_per_round": "5"},
    ),
    "_too_few_to_separate": (BANDED, {"privacy.min_separation": "20"}, "need 200 clients", {}),
    "_over_selection": (
        BANDED,
        {"federation.over_select": "0.5"},
        "whoever is fastest",
        {"federation.over_select": OPEN},
    ),
    "_replies_that_matter": (CLIENT, {"federation.min_replies": "3"}, "leave it at 1", {}),
    "_non_linear_scheme": (
        CLIENT,
        {"adapter.kind": '"lora"', "aggregation.scheme": '"fedex"'},
        "does more than to add",
        {"aggregation.scheme": '"mean"'},
    ),
    "_robust_rule": (CLIENT, {"aggregation.rule": '"median"'}, "chooses among updates", {}),
    "_diagnosis": (CLIENT, {"aggregation.diagnose": "true"}, "before their noise", {}),
    "_ranks_under_client_privacy": (CLIENT, {"federation.ranks": '["a=2"]'}, "shows who took part", {}),
    "_copies_under_client_privacy": (
        CLIENT,
        {"compression.upload": '["ternary"]', "compression.feedback": '"ef21"'},
        "puts a copy",
        {"compression.feedback": '"none"'},
    ),
    "_local_noise_with_central_options": (LOCAL, {"privacy.clip_quantile": "0.5"}, "independent noise", {}),
    "_too_many_in_a_sum": (
        CLIENT,
        {"privacy.population": "100000", "privacy.delta": "1e-7"},
        "add up about 10000",
        {"privacy.sampling_rate": "0.01"},
    ),
    "_more_clients_than_the_population": (CLIENT, {"federation.min_clients": "101"}, "waits for more clients", {}),
    "_rows_kept_back_for_nothing": (CLIENT, {"data.holdout_fraction": "0.1"}, "keeps rows back", {}),
    "_adaptive_clip_of_banded_noise": (BANDED, {"privacy.clip_quantile": "0.5"}, "at one clip", {}),
}


def test_every_rule_is_tried_here() -> None:
    assert set(MIXES) == {rule.name for rule in (*PRIVACY_RULES, *EXAMPLE_RULES, *CLIENT_RULES)}


@pytest.mark.parametrize(
    "sound", [{}, EXAMPLE, CLIENT, LOCAL, BANDED], ids=["none", "example", "client", "local", "banded"]
)
def test_sound_recipes_load_without_a_word(sound: dict[str, str]) -> None:
    assert load(sound).advice == ()


@pytest.mark.parametrize("name", MIXES)
def test_a_broken_promise_is_refused_with_its_reason(name: str) -> None:
    sound, broken, expected, _ = MIXES[name]
    with pytest.raises(RecipeError) as caught:
        load(sound, broken)
    assert sum(expected in line for line in str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", MIXES)
def test_the_way_out_of_it_leads_out(name: str) -> None:
    sound, broken, _, mended = MIXES[name]
    load(sound, broken, mended or dict.fromkeys(broken, OPEN) | {k: v for k, v in sound.items() if k in broken})


def test_what_follows_from_a_unit_is_filled_in() -> None:
    recipe = load(EXAMPLE).recipe
    assert recipe.aggregation.weights == "uniform"
    assert recipe.training.max_grad_norm is None
    assert load(CLIENT).recipe.aggregation.weights == "uniform"
