"""Rules of noise on a split model's activations: what would leave beside it, or unsettle whose they are, is refused."""

from fedtune.recipe.allowed import as_toml
from fedtune.recipe.recipe import Recipe
from fedtune.recipe.rule import Rule, into
from fedtune.recipe.split import SplitSection

RELEASE_RULES: list[Rule] = []
"""In the order of this file."""

refuses = into(RELEASE_RULES)

BEFORE_THE_CUT = ("prompt_tokens", "train_head")
"""The keys of `[split]` that train something in front of the first cut."""


@refuses("split.noise_multiplier", "split.prompt_tokens", "split.train_head")
def _noise_on_a_trained_head(r: Recipe) -> str | None:
    key = next((key for key in BEFORE_THE_CUT if getattr(r.split, key) != getattr(SplitSection(), key)), None)
    if not r.split.noise_multiplier or key is None:
        return None
    return (
        f"split.noise_multiplier hides a row where its activations depend on that row alone, and split.{key} trains "
        "what stands before the cut: through it every row's activations tell of the others, and the gradients for it "
        f"go up without noise; set {key} = {as_toml(getattr(SplitSection(), key))}, or noise_multiplier = 0 and "
        "promise nothing"
    )


@refuses("split.noise_multiplier", "split.body")
def _noise_beside_a_trained_body(r: Recipe) -> str | None:
    if not r.split.noise_multiplier or r.split.body == "frozen":
        return None
    return (
        f'split.noise_multiplier covers activations, and split.body = "{r.split.body}" has clients send the gradients '
        'of single rows up without noise; set body = "frozen", or noise_multiplier = 0 and promise nothing'
    )


@refuses("split.noise_multiplier", "split.keep")
def _noise_on_chosen_rows(r: Recipe) -> str | None:
    if not r.split.noise_multiplier or r.split.keep == 1:
        return None
    return (
        f"split.noise_multiplier hides a row where which rows are sent depends on none of them, and split.keep = "
        f"{r.split.keep:g} chooses them by what they hold; set keep = 1.0, or noise_multiplier = 0 and promise nothing"
    )


@refuses("split.delta", "split.noise_multiplier")
def _noise_without_delta(r: Recipe) -> str | None:
    if not r.split.noise_multiplier or r.split.delta is not None:
        return None
    return (
        "split.delta is required where split.noise_multiplier is set, and nothing in the recipe implies it: set it "
        "well below one over the number of rows of a client, for example 1e-5"
    )


@refuses("split.clip", "split.delta", "split.noise_multiplier")
def _keys_of_no_noise(r: Recipe) -> str | None:
    usual = SplitSection()
    key = next((key for key in ("clip", "delta") if getattr(r.split, key) != getattr(usual, key)), None)
    if r.split.noise_multiplier or key is None:
        return None
    return f"split.{key} is read where there is noise; set split.noise_multiplier above 0, or take {key} out"
