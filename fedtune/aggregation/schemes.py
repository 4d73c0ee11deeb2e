"""Every scheme by its name in a recipe."""

from collections.abc import Mapping

from fedtune.aggregation import scheme_mean
from fedtune.aggregation.scheme import Scheme
from fedtune.recipe.aggregation import SchemeName

SCHEMES: Mapping[SchemeName, Scheme] = {"mean": scheme_mean.SCHEME}
