"""Every scheme by its name in a recipe."""

from collections.abc import Mapping

from fedtune.aggregation import (
    fedex,
    fedrot,
    fedsa,
    fedsvd,
    flexlora,
    flora,
    florist,
    hetlora,
    lora_fair,
    rolora,
    scheme_mean,
)
from fedtune.aggregation.scheme import Scheme
from fedtune.recipe.aggregation import SchemeName

SCHEMES: Mapping[SchemeName, Scheme] = {
    "mean": scheme_mean.SCHEME,
    "rolora": rolora.SCHEME,
    "fedsa": fedsa.SCHEME,
    "fedex": fedex.SCHEME,
    "flora": flora.SCHEME,
    "flexlora": flexlora.SCHEME,
    "hetlora": hetlora.SCHEME,
    "lora-fair": lora_fair.SCHEME,
    "florist": florist.SCHEME,
    "fedrot": fedrot.SCHEME,
    "fedsvd": fedsvd.SCHEME,
}
