"""What tests of policies and budgets share: tasks, entries, a book's guard, and an accountant of one formula."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from client.policy.book import Book
from client.policy.entry import Entry
from client.policy.guard import Guard
from client.policy.policy import BudgetSection, Policy
from fedtune.privacy.events import Event
from fedtune.recipe import Recipe
from fedtune.wire import Task

DELTA = 1e-5
EXAMPLE = {"unit": "example", "delta": DELTA, "noise_multiplier": 1.0, "sampling_rate": 0.1}


def gaussian_epsilon(events: Sequence[Event], delta: float) -> float:
    """ε of unsampled Gaussians at `delta`, by the formula of Balle and Wang (arXiv 1805.06530), by bisection.

    Sampling is taken for none, which only makes it more: fast, and independent of the accountant under test.
    """
    mu = math.sqrt(sum(event.count / event.noise_multiplier**2 for event in events))
    low, high = 0.0, mu * mu / 2 + 10 * mu + 1e-9
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _delta(mu, middle) > delta else (low, middle)
    return high if mu else 0.0


def _delta(mu: float, epsilon: float) -> float:
    return _normal(mu / 2 - epsilon / mu) - math.exp(epsilon) * _normal(-mu / 2 - epsilon / mu)


def _normal(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


def recipe_of(**sections: Any) -> Recipe:
    """A recipe as a coordinator sends it; `sections` are keys by section."""
    base: dict[str, Any] = {"model": {"name": "minilm"}, "training": {"steps": 4}, "privacy": EXAMPLE}
    return Recipe.model_validate({**base, **sections})


def task_of(recipe: Recipe, *, kind: Any = "train", run: str = "run", round_: int = 1, **more: Any) -> Task:
    """A task of that recipe, without tensors."""
    fields = {"recipe": recipe.for_clients(), "recipe_fingerprint": recipe.fingerprint(), "model_fingerprint": "f" * 32}
    return Task(kind=kind, run=run, round=round_, base="", state={}, **{**fields, **more})


def policy_of(epsilon: float | None = None, **keys: Any) -> Policy:
    """A policy of the data set `rows`, with a cap where `epsilon` is given."""
    budget = BudgetSection(epsilon=epsilon, delta=DELTA) if epsilon else None
    return Policy(**{"dataset": "rows", "units": ("example", "client"), "budget": budget, **keys})


def guard_of(folder: Path, epsilon: float | None = None, **keys: Any) -> Guard:
    """A guard over the book `rows` in a folder, with the accountant of one formula."""
    return Guard(Book(folder, "rows"), policy_of(epsilon, **keys), epsilon_of=gaussian_epsilon)


def entry_of(*events: Event, **fields: Any) -> Entry:
    """A reservation of one round of DP-SGD; `fields` change any of it."""
    base = {"what": "reserve", "at": "2026-01-01T00:00:00+00:00", "run": "run", "round": 1, "task": "train"}
    return Entry(**{**base, "unit": "example", "events": events or (Event(noise_multiplier=2.0),), **fields})
