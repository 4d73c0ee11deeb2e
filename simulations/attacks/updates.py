"""Poison in the updates: what attackers send who know every honest update of the round.

Each function is pure: `honest` (H, d) the honest updates, `own` (f, d) what the attackers would have sent had they been
honest. It gives (f, d), a row an attacker.
"""

from collections.abc import Callable, Mapping
from statistics import NormalDist

import torch

Attack = Callable[[torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]
"""(honest, own, generator) to what the attackers send."""


def flip_signs(own: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """−scale times what each attacker learned; a mean of like updates turns round where scale > H/f."""
    return -scale * own


def manipulate_inner_product(honest: torch.Tensor, own: torch.Tensor, epsilon: float) -> torch.Tensor:
    """−ε times the mean of the honest updates, from all attackers (IPM, arXiv 1903.03936).

    A mean turns round where ε > H/f. A small ε hides among the honest updates, and rules that choose may choose it.
    """
    return (-epsilon * honest.mean(dim=0)).expand(len(own), -1)


def add_a_little(honest: torch.Tensor, own: torch.Tensor, z: float) -> torch.Tensor:
    """Mean + z standard deviations (H − 1 in the denominator) of the honest updates in each coordinate, from all.

    A Little Is Enough (ALIE, arXiv 1902.06156): small in every coordinate, far over all of them, and honest updates
    lie further out. Either sign serves. At least two honest updates.
    """
    return (honest.mean(dim=0) + z * honest.std(dim=0)).expand(len(own), -1)


def little_enough(clients: int, attackers: int) -> float:
    """The paper's z for `add_a_little`: with it a majority is on the attackers' side in an expected coordinate.

    z = Φ⁻¹((n − f − s)/(n − f)) with s = ⌊n/2 + 1⌋ − f honest updates to win; n ≥ 3 and f < n/2.
    """
    wins = clients // 2 + 1 - attackers
    return NormalDist().inv_cdf((clients - attackers - wins) / (clients - attackers))


def send_noise(own: torch.Tensor, sigma: float, generator: torch.Generator) -> torch.Tensor:
    """Draws of N(0, σ²), different for each attacker."""
    return sigma * torch.randn(own.shape, generator=generator, dtype=own.dtype)


def send_non_finite(own: torch.Tensor) -> torch.Tensor:
    """NaN from every other attacker, infinity from the rest."""
    poison = torch.full_like(own, torch.inf)
    poison[::2] = torch.nan
    return poison


ATTACKS: Mapping[str, Attack] = {
    "sign-flip": lambda _honest, own, _generator: flip_signs(own, 4.0),
    "ipm-0.5": lambda honest, own, _generator: manipulate_inner_product(honest, own, 0.5),
    "ipm-10": lambda honest, own, _generator: manipulate_inner_product(honest, own, 10.0),
    "alie-1.5": lambda honest, own, _generator: add_a_little(honest, own, -1.5),
    "gaussian": lambda _honest, own, generator: send_noise(own, 1.0, generator),
    "non-finite": lambda _honest, own, _generator: send_non_finite(own),
}
"""The attacks that studies compare, by name, at one strength each."""
