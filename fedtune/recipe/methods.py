"""Published methods by name: which keys of a recipe each of them settles."""

from collections.abc import Mapping
from dataclasses import dataclass

from fedtune.recipe.allowed import as_toml
from fedtune.recipe.lines import Path
from fedtune.recipe.suggest import did_you_mean

Value = str | bool | int | float
KIND, INIT, SCHEME = ("adapter", "kind"), ("adapter", "init"), ("aggregation", "scheme")
FREEZE_A = ("adapter", "freeze_a")


@dataclass(frozen=True, slots=True)
class Method:
    """A published method as choices of this recipe."""

    title: str
    """One line with the source."""
    settles: Mapping[Path, tuple[Value, ...]]
    """The values of each key that agree with the method; the first fills a key that is left open. A number only fills:
    another one is the same method with another setting."""


def _lora(title: str, scheme: str) -> Method:
    """A method that trains LoRA and averages it by `scheme`."""
    return Method(title, {KIND: ("lora",), INIT: ("kaiming",), FREEZE_A: (False,), SCHEME: (scheme,)})


METHODS: Mapping[str, Method] = {
    "fed-sb": Method(
        "trainable R between frozen factors, averaged exactly, from a data-free start (arXiv 2502.15436)",
        {
            KIND: ("square",),
            INIT: ("weights", "random", "public-gradient", "private-gradient", "dp-gradient"),
            SCHEME: ("mean",),
        },
    ),
    "fedit": _lora("plain LoRA, A and B averaged each by itself (arXiv 2305.05644)", "mean"),
    "ffa-lora": Method(
        "LoRA with a frozen A that all clients share, B averaged exactly (arXiv 2403.12313)",
        {KIND: ("lora",), INIT: ("kaiming",), FREEZE_A: (True,), SCHEME: ("mean",)},
    ),
    "rolora": _lora("LoRA whose B and A take turns by round, averaged exactly (arXiv 2502.01755)", "rolora"),
    "fedsa-lora": _lora("LoRA that shares A; B and the head stay with each client (arXiv 2410.01463)", "fedsa"),
    "fedex-lora": _lora("LoRA averaged exactly by a residual on the base weights (arXiv 2410.09432)", "fedex"),
    "flora": _lora("LoRA stacked, merged into the base weights, begun anew (arXiv 2409.05976)", "flora"),
    "flexlora": _lora("LoRA by the SVD of the mean product, for different ranks (arXiv 2402.11505)", "flexlora"),
    "hetlora": _lora("LoRA padded with zeros, weighted by norm, for different ranks (arXiv 2401.06432)", "hetlora"),
    "lora-fair": _lora("LoRA whose mean B is corrected towards the mean product (arXiv 2411.14961)", "lora-fair"),
    "florist": _lora("LoRA by the singular values that hold the energy (arXiv 2506.09199)", "florist"),
    "fedrot-lora": _lora("LoRA turned towards the global factors before the mean (arXiv 2602.23638)", "fedrot"),
    "fedsvd": _lora("LoRA that trains B; A is made orthonormal anew each round (arXiv 2505.12805)", "fedsvd"),
    "ravan": Method(
        "several trained squares between frozen orthogonal factors, averaged exactly (arXiv 2506.05568)",
        {KIND: ("ravan",), INIT: ("random",), SCHEME: ("mean",)},
    ),
    "lora-sb": Method(
        "R between factors of the first gradient (arXiv 2411.19557), read from the clients' own rows as published",
        {KIND: ("square",), INIT: ("private-gradient", "public-gradient"), SCHEME: ("mean",)},
    ),
    "lora-xs": Method(
        "R between factors of the base weight (arXiv 2405.17604)",
        {KIND: ("square",), INIT: ("weights",), SCHEME: ("mean",)},
    ),
    "sfprompt": Method(
        "a split model with soft prompts: local training without the body, the hardest rows through it (2407.17533)",
        {
            KIND: ("full",),
            INIT: ("weights",),
            SCHEME: ("mean",),
            ("split", "head_layers"): (1,),
            ("split", "tail_layers"): (1,),
            ("split", "prompt_tokens"): (5,),
            ("split", "local_epochs"): (1,),
            ("split", "keep"): (0.5,),
        },
    ),
}


def no_method(name: str) -> str:
    """What to say of a method that there is not."""
    have = f"Available: {', '.join(METHODS)}"
    hint = did_you_mean(name, METHODS) or "."
    return f"{as_toml(name)} is not the name of a method{hint} {have}"
