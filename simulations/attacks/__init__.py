"""Attacks of clients that send poison, for studies of robust rules; nothing of the platform uses them."""

from simulations.attacks.labels import flip_labels
from simulations.attacks.updates import ATTACKS, Attack

__all__ = ["ATTACKS", "Attack", "flip_labels"]
