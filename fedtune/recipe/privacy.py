"""The `[privacy]` section: whose presence a run promises to hide."""

from typing import Literal

from fedtune.recipe.base import Section


class PrivacySection(Section):
    """The unit of privacy."""

    unit: Literal["none", "example", "client"] = "none"
    """`none` promises nothing beyond what stays on the client; `example` and `client` are differential privacy."""
