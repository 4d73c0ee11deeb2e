"""The chances with which a base model drops numbers while it trains, as its config says them."""

from typing import Any


def chances(config: Any) -> dict[str, float]:
    """Every chance of dropping something, by the config's own name for it; empty where there is no config.

    Families name them each in their own way (`hidden_dropout_prob`, `attn_pdrop`, `drop_path_rate`, `layerdrop`, …),
    and all say "drop".
    """
    fields = {} if config is None else config.to_dict()
    return {name: float(value) for name, value in fields.items() if "drop" in name and _is_number(value)}


def set_chances(config: Any, chance: float) -> None:
    """Put `chance` in the place of all that `chances` finds."""
    for name in chances(config):
        setattr(config, name, chance)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
