"""What a rule is: a function from a recipe to a sentence, and the keys that the sentence is about."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedtune.recipe.lines import Path
from fedtune.recipe.problems import Problem
from fedtune.recipe.recipe import Recipe

Says = Callable[[Recipe], str | None]
"""The sentence that a recipe deserves, or None where it keeps the rule."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule and the keys by whose lines its sentence is placed."""

    paths: tuple[Path, ...]
    says: Says

    @property
    def name(self) -> str:
        """The name of the function that says it."""
        return self.says.__name__


def into(table: list[Rule]) -> Callable[..., Callable[[Says], Says]]:
    """A decorator that adds a function to `table`, given the dotted keys that it is about."""

    def about(*keys: str) -> Callable[[Says], Says]:
        def add(says: Says) -> Says:
            table.append(Rule(tuple(tuple(key.split(".")) for key in keys), says))
            return says

        return add

    return about


def check(rules: Sequence[Rule], recipe: Recipe) -> list[Problem]:
    """The sentences that `rules` have for `recipe`."""
    pairs = ((rule, rule.says(recipe)) for rule in rules)
    return [Problem(rule.paths, sentence) for rule, sentence in pairs if sentence]
