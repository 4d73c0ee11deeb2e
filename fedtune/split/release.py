"""What noise on a split model's activations promises, and how often a row is released: counted, accounted and said.

The model is local: nobody but the client adds noise, and the coordinator, who sees every micro-batch, is whom a row is
hidden from. It knows which rows are in it, so that no sampling is ever counted as hiding one.
"""

import math
from dataclasses import dataclass
from typing import Any

from fedtune.data.split import HOLDOUT_PURPOSE, split_indices
from fedtune.errors import PrivacyError
from fedtune.privacy.plan import planned_evaluations
from fedtune.recipe import Recipe
from fedtune.recipe.rule import check
from fedtune.recipe.rules_release import RELEASE_RULES

RELATION = "replace-one-row"
BESIDE = (
    "not covered: what is trained, which goes up without noise at the end of each round; how many rows a client has "
    "and tokens a row has, which are seen; and a round that is begun anew after a restart, which releases its rows "
    "once more"
)
"""What the statement does not reach."""


@dataclass(frozen=True, slots=True)
class Release:
    """All sendings of one row's activations in a run of a recipe.

    One sending is a Gaussian mechanism: the activations of a row, all tokens of one pass, are one vector of norm `clip`
    at most, and any other row in its place (with as many tokens, of a causal LM as many to be answered) moves it by
    2·`clip` at most; noise of `noise_multiplier`·`clip` makes it μ-GDP with μ = 2/`noise_multiplier`. Sendings of the
    same row compose, each chosen in the light of those before, to μ·√sendings (arXiv 1905.02383, corollary 1), exactly.
    Nothing of it depends on another row: the head is frozen, and all rows are sent.
    """

    noise_multiplier: float
    clip: float
    delta: float
    trained: int
    """Sendings of a row that its client trains on, over the run, at most: as if the client were in every round."""
    held_out: int
    """Sendings of a row that its client evaluates on; no row is both."""
    rows: int | None = None
    """What `trained` holds for: clients that train on so many rows, or more; None for all clients."""

    @property
    def most(self) -> int:
        """Sendings of any row, at most."""
        return max(self.trained, self.held_out)

    def mu(self, sendings: int | None = None) -> float:
        """μ of so many sendings of one row, of all that there are unless given."""
        return 2 * math.sqrt(self.most if sendings is None else sendings) / self.noise_multiplier

    def epsilon(self, sendings: int | None = None) -> float:
        """The least ε at `delta`, from the exact trade-off (arXiv 1805.06530, theorem 8); 0 where nothing is sent."""
        from fedtune.privacy.accounting import gaussian_epsilon

        mu = self.mu(sendings)
        return gaussian_epsilon(mu, self.delta) if mu else 0.0

    def told_apart(self, sendings: int | None = None) -> float:
        """How often a guess which of two rows was sent can be right, each as likely as the other: Φ(μ/2)."""
        return (1 + math.erf(self.mu(sendings) / math.sqrt(8))) / 2


def release_of(recipe: Recipe, *, rows: int | None = None) -> Release | None:
    """What the recipe's noise promises a client that holds `rows` rows (any number: None); None without noise.

    `rows` matters where `training.steps` is given: the fewer rows, the more often each comes up. Raises PrivacyError
    for a recipe whose noise promises nothing, with what to change.
    """
    section = recipe.split
    if not section.active or not section.noise_multiplier:
        return None
    if problems := check(RELEASE_RULES, recipe):
        raise PrivacyError(problems[0].sentence)
    if rows is not None:
        rows = len(split_indices(rows, recipe.data.holdout_fraction, seed=0, purpose=HOLDOUT_PURPOSE)[0])
    return Release(
        noise_multiplier=section.noise_multiplier,
        clip=section.clip,
        delta=section.delta or 0.0,
        trained=recipe.federation.rounds * _passes(recipe, rows),
        held_out=planned_evaluations(recipe) if recipe.data.holdout_fraction else 0,
        rows=None if recipe.training.steps is None else rows,
    )


def said(release: Release) -> str:
    """The promise in one sentence, numbers rounded upwards."""
    whose = "" if release.rows is None else f" of a client that trains on {release.rows:,} rows or more"
    return (
        f"activations: {shown(release)} for each row{whose} against the coordinator (replaced by any other of as many "
        f"tokens), over at most {release.most:,} sendings of the row, each clipped to {release.clip:g} with noise of "
        f"{release.noise_multiplier:g} clips; {BESIDE}"
    )


def shown(release: Release, sendings: int | None = None) -> str:
    """`ε = 4.38 at δ = 1e-05 (μ = 1, told from another row right in 69.2 % of cases)`, rounded upwards."""
    share = math.ceil(release.told_apart(sendings) * 1000) / 10
    return (
        f"ε = {_upwards(release.epsilon(sendings))} at δ = {release.delta:g} (μ = {_upwards(release.mu(sendings))}, "
        f"told from another row right in at most {share:g} % of cases)"
    )


def as_json(release: Release) -> dict[str, Any]:
    """The promise as JSON values."""
    return {
        "unit": "row",
        "relation": RELATION,
        "covers": "activations",
        "noise_multiplier": release.noise_multiplier,
        "clip": release.clip,
        "sendings": release.most,
        "rows": release.rows,
        "mu": release.mu(),
        "epsilon": release.epsilon(),
        "delta": release.delta,
        "told_apart": release.told_apart(),
        "statement": said(release),
    }


def _passes(recipe: Recipe, rows: int | None) -> int:
    """How often a round sends a row, at most: once an epoch, and an epoch takes as many steps as the rows fill."""
    training = recipe.training
    if training.steps is None:
        return training.epochs
    an_epoch = -(-(rows or 1) // (training.batch_size * training.accumulate))
    return -(-training.steps // an_epoch)


def _upwards(value: float) -> str:
    """Three significant digits, never less than the value."""
    if not 0 < value < math.inf:
        return f"{value:g}"
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    rounded = math.ceil(value / unit) * unit
    return f"{rounded:.3g}" if rounded < 999.5 else f"{rounded:,.0f}"
