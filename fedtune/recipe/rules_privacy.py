"""Rules of every unit of privacy: the promise is whole, and nothing is released beside what the noise covers."""

from collections.abc import Iterable

from fedtune.recipe.recipe import Recipe
from fedtune.recipe.rule import Rule, into

PRIVACY_RULES: list[Rule] = []
"""In the order of this file."""

refuses = into(PRIVACY_RULES)

EXAMPLE_ONLY = ("clipping", "metrics", "metrics_noise", "init_noise")
CLIENT_ONLY = (
    "population",
    "mechanism",
    "min_separation",
    "noise",
    "clip_quantile",
    "clip_rate",
    "count_noise",
)


def _example(r: Recipe) -> bool:
    return r.privacy.unit == "example"


def _client(r: Recipe) -> bool:
    return r.privacy.unit == "client"


def _given(r: Recipe, keys: Iterable[str]) -> str:
    """The first of these keys of `[privacy]` that is not at its default; empty where all are."""
    fields = type(r.privacy).model_fields
    return next((key for key in keys if getattr(r.privacy, key) != fields[key].default), "")


# The promise


@refuses("privacy.unit")
def _keys_without_a_unit(r: Recipe) -> str | None:
    key = _given(r, sorted(set(type(r.privacy).model_fields) - {"unit"}))
    if r.privacy.unit != "none" or not key:
        return None
    return (
        f'privacy.{key} has no effect while privacy.unit is "none"; set unit = "example" to hide each row, or "client" '
        "to hide each client, or take the key out"
    )


@refuses("privacy.delta", "privacy.unit")
def _delta_is_open(r: Recipe) -> str | None:
    if r.privacy.unit == "none" or r.privacy.delta is not None:
        return None
    return (
        "privacy.delta is required, and nothing in the recipe implies it: set it well below one over the number of "
        f"{'rows of a client' if _example(r) else 'clients'}, for example 1e-5"
    )


@refuses("privacy.epsilon", "privacy.noise_multiplier")
def _no_amount_of_noise(r: Recipe) -> str | None:
    if r.privacy.unit == "none" or r.privacy.epsilon or r.privacy.noise_multiplier:
        return None
    return "privacy needs an amount: set epsilon, for example 3.0, and the noise is calibrated; or set noise_multiplier"


@refuses("privacy.delta", "privacy.population")
def _delta_too_large(r: Recipe) -> str | None:
    if not _client(r) or not r.privacy.population or not r.privacy.delta or r.privacy.delta < 1 / r.privacy.population:
        return None
    return (
        f"privacy.delta = {r.privacy.delta:g} lets one of {r.privacy.population} clients be published as a whole; set "
        f"it below {1 / r.privacy.population:g}"
    )


@refuses("privacy.unit")
def _keys_of_another_unit(r: Recipe) -> str | None:
    if r.privacy.unit == "none" or not (key := _given(r, CLIENT_ONLY if _example(r) else EXAMPLE_ONLY)):
        return None
    other = "client" if _example(r) else "example"
    return f'privacy.{key} is for privacy.unit = "{other}", and unit is "{r.privacy.unit}"; take it out, or change unit'


# What is released beside the noised sums


@refuses("adapter.init", "privacy.unit")
def _private_gradient_under_privacy(r: Recipe) -> str | None:
    if r.adapter.init != "private-gradient" or r.privacy.unit == "none":
        return None
    noised = ', or to "dp-gradient", which the budget pays for' if _example(r) else ""
    return (
        'adapter.init = "private-gradient" reads private rows outside the privacy accountant, so no ε would cover the '
        'released adapter; set adapter.init to "weights" or "random", which read no data, to "public-gradient" with a '
        f"public adapter.init_source{noised}"
    )


@refuses("adapter.init", "privacy.unit")
def _noised_gradient_without_privacy(r: Recipe) -> str | None:
    if r.adapter.init != "dp-gradient" or _example(r):
        return None
    return (
        'adapter.init = "dp-gradient" adds noise that privacy.unit = "example" accounts for, and unit is '
        f'"{r.privacy.unit}"; set unit = "example", or init = "weights"'
    )


@refuses("aggregation.weights", "privacy.unit")
def _example_counts_under_privacy(r: Recipe) -> str | None:
    if r.aggregation.weights == "uniform" or r.privacy.unit == "none":
        return None
    return (
        f'aggregation.weights = "{r.aggregation.weights}" tells how many rows each client has, which no noise covers; '
        'set weights = "uniform"'
    )


@refuses("training.scaffold", "privacy.unit")
def _control_variates_under_privacy(r: Recipe) -> str | None:
    if not r.training.scaffold or r.privacy.unit == "none":
        return None
    return (
        "training.scaffold has clients send control variates beside their updates, which nothing clips or accounts "
        "for; take scaffold out; training.proximal (FedProx) works against the same drift and costs no privacy"
    )


@refuses("federation.early_stop", "privacy.unit")
def _early_stop_on_private_scores(r: Recipe) -> str | None:
    public = r.data.test_source or (r.data.source and r.data.test_fraction)
    if not r.federation.early_stop or r.privacy.unit == "none" or public or r.privacy.metrics == "noised":
        return None
    return (
        "federation.early_stop would look at scores of private rows, which clients withhold under privacy; set "
        'data.test_source to rows that nobody has to hide, or privacy.metrics = "noised" (unit "example"), or take '
        "early_stop out"
    )


@refuses("federation.evaluate_clients", "privacy.metrics")
def _withheld_evaluation(r: Recipe) -> str | None:
    if r.privacy.unit == "none" or r.privacy.metrics == "noised" or not r.federation.evaluate_clients:
        return None
    return (
        "federation.evaluate_clients asks for scores that clients withhold under privacy; take it out, or set "
        'privacy.metrics = "noised" (unit "example"), which the budget pays for'
    )


@refuses("privacy.metrics", "data.holdout_fraction")
def _noised_metrics_of_nothing(r: Recipe) -> str | None:
    if r.privacy.metrics != "noised" or r.data.holdout_fraction:
        return None
    return 'privacy.metrics = "noised" scores rows that clients hold out; set data.holdout_fraction, for example 0.1'
