"""What one direct test of a mechanism found."""

from dataclasses import dataclass

ALPHA = 1e-3
"""How often a test of chance may cry wolf over a mechanism that is as planned."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One test: does the mechanism do what its plan says?"""

    name: str
    holds: bool
    found: str
    """One sentence, with figures."""
    p_value: float | None = None
    """How likely something so odd is under the plan; None where chance plays no part."""


def by_chance(name: str, p_value: float, found: str) -> Finding:
    """A finding that holds unless what was seen is rarer than `ALPHA`."""
    return Finding(name, p_value >= ALPHA, f"{found} (p = {p_value:.2g})", p_value)
