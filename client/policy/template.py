"""The policy file that `fedtune policy new` writes: every key and its meaning, what limits nothing as a comment."""

import textwrap

from client.policy.policy import BudgetSection, Policy
from fedtune.recipe.allowed import as_toml

_EXAMPLES = {
    "noise_multiplier_min": "0.8",
    "models": '["minilm"]',
    "adapters": '["square", "lora", "ravan"]',
    "schemes": '["mean"]',
    "init": '["weights", "random"]',
    "max_steps_per_round": "200",
    "max_rounds_per_run": "100",
    "hours": '"20:00-06:00"',
    "timezone": '"Europe/Berlin"',
    "expires": "2030-12-31",
}
"""What stands in the comments, to be changed and taken in."""
_WIDTH = 100


def template(dataset: str, epsilon: float, delta: float) -> str:
    """A commented policy of a data set with a cap; `parse_policy` reads it as it is."""
    policy = Policy(dataset=dataset, budget=BudgetSection(epsilon=epsilon, delta=delta))
    lines = ["# What may be asked of one data set, and how much of its privacy may be spent. Read by `fedtune client`."]
    for name, field in Policy.model_fields.items():
        if name != "budget":
            value = _EXAMPLES.get(name)
            written = f"# {name} = {value}" if value else f"{name} = {as_toml(getattr(policy, name))}"
            lines += ["", *_comment(field.description), written]
    lines += ["", *_comment(Policy.model_fields["budget"].description), "[budget]"]
    for name, field in BudgetSection.model_fields.items():
        lines += [*_comment(field.description), f"{name} = {as_toml(getattr(policy.budget, name))}"]
    return "\n".join(lines) + "\n"


def _comment(description: str | None) -> list[str]:
    return textwrap.wrap(" ".join((description or "").split()), _WIDTH, initial_indent="# ", subsequent_indent="# ")
