"""Published methods by name: which keys of a recipe each of them settles."""

from collections.abc import Mapping
from dataclasses import dataclass

from fedtune.recipe.allowed import as_toml
from fedtune.recipe.lines import Path
from fedtune.recipe.suggest import did_you_mean

KIND, INIT, SCHEME = ("adapter", "kind"), ("adapter", "init"), ("aggregation", "scheme")


@dataclass(frozen=True, slots=True)
class Method:
    """A published method as choices of this recipe."""

    title: str
    """One line with the source."""
    settles: Mapping[Path, tuple[str, ...]]
    """The values of each key that agree with the method; the first fills a key that is left open."""


METHODS: Mapping[str, Method] = {
    "fed-sb": Method(
        "trainable R between frozen factors, averaged exactly, from a data-free start (arXiv 2502.15436)",
        {
            KIND: ("square",),
            INIT: ("weights", "random", "public-gradient", "private-gradient"),
            SCHEME: ("mean",),
        },
    ),
    "fedit": Method(
        "plain LoRA, A and B averaged each by itself (arXiv 2305.05644)",
        {KIND: ("lora",), INIT: ("kaiming",), SCHEME: ("mean",)},
    ),
    "lora-sb": Method(
        "R between factors of the first gradient (arXiv 2411.19557), read from the clients' own rows as published",
        {KIND: ("square",), INIT: ("private-gradient", "public-gradient"), SCHEME: ("mean",)},
    ),
    "lora-xs": Method(
        "R between factors of the base weight (arXiv 2405.17604)",
        {KIND: ("square",), INIT: ("weights",), SCHEME: ("mean",)},
    ),
}

LATER = ("fedex-lora", "ffa-lora", "flora", "lora-fair", "ravan", "sfprompt")
"""Published methods that later versions carry out."""


def no_method(name: str) -> str:
    """What to say of a method that there is not."""
    have = f"Available: {', '.join(METHODS)}"
    if name.lower() in LATER:
        return f"method = {as_toml(name)} is not in this version. {have}"
    hint = did_you_mean(name, (*METHODS, *LATER)) or "."
    return f"{as_toml(name)} is not the name of a method{hint} {have}"
