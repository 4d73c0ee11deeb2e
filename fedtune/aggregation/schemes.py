"""Every scheme by its name in a recipe."""

from collections.abc import Mapping

from fedtune.aggregation import fedex, flexlora, flora, florist, scheme_mean
from fedtune.aggregation.scheme import Scheme
from fedtune.recipe.aggregation import SchemeName

SCHEMES: Mapping[SchemeName, Scheme] = {
    "mean": scheme_mean.SCHEME,
    "fedex": fedex.SCHEME,
    "flora": flora.SCHEME,
    "flexlora": flexlora.SCHEME,
    "florist": florist.SCHEME,
}
