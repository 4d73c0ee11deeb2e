"""Rounds of tiny split models: residents, rows that fit them, and bodies that count, come late or fail."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from fedtune.errors import TransportError
from fedtune.recipe import Recipe
from fedtune.split.base import Share, Smashed, Wants
from fedtune.split.local import LocalBody
from fedtune.split.step import SplitStep
from fedtune.training.base import Assignment, LocalResult
from fedtune.training.make import local_bodies
from fedtune.training.resident import Resident
from tests.split.split_models import FAMILIES, folder
from tests.training.parts import ListRows, answer_rows, image_rows, text_rows

ROWS = {"image-classification": image_rows, "causal-lm": answer_rows, "sequence-classification": text_rows}
PLAIN = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
}
"""What leaves dropout out of a family's config."""


def recipe(family: str, path: Path | None = None, **sections: dict[str, Any]) -> Recipe:
    """A recipe that trains the tail of the family's tiny model; `sections` change any key."""
    task = FAMILIES[family][1]
    model = {"name": str(path or folder(family)), "task": task, "image_size": 16, "max_length": 32}
    labels = {} if task == "causal-lm" else {"labels": ("a", "b", "c")}
    base: dict[str, Any] = {
        "model": model | labels,
        "adapter": {"kind": "full", "head": task != "causal-lm"},
        "training": {"device": "cpu", "batch_size": 2, "lr": 0.05, "optimizer": "sgd", "max_grad_norm": None},
        "split": {"head_layers": 1},
    }
    for name, values in sections.items():
        base[name] = {**base.get(name, {}), **values}
    return Recipe.model_validate(base)


def home(family: str, path: Path | None = None, **sections: dict[str, Any]) -> Resident:
    """The client's part of it."""
    return Resident.build(recipe(family, path, **sections))


def rows(family: str, count: int = 7, *, seed: int = 0) -> ListRows:
    """Rows that the family reads."""
    return ROWS[FAMILIES[family][1]](count, seed=seed)


def train(resident: Resident, data: ListRows, opener: Any = None) -> LocalResult:
    """One client's round from the start."""
    step = SplitStep(resident, opener or local_bodies(resident.recipe))
    [result] = step.train([Assignment("c", 3, resident.initial, data, 5, run="r")])
    return result


class Watched:
    """Opens bodies that say what was asked of them."""

    def __init__(self, recipe_: Recipe, *, fails_at: int | None = None) -> None:
        self._open = local_bodies(recipe_)
        self._fails_at = fails_at
        self.shares: list[Share] = []
        self.calls: Counter[str] = Counter()
        self.rows = 0
        """Rows that were sent forward."""
        self.numbers = 0
        """Numbers that crossed a cut, both ways."""
        self.most = 0
        """Micro-batches on their way at once, at most."""
        self._on_the_way: set[int] = set()
        self.in_flight, self.trains = recipe_.split.in_flight, False

    def __call__(self, share: Share) -> "Watched":
        self.shares.append(share)
        self._body: Any = self._open(share)
        return self

    def forward(self, number: int, smashed: Smashed, wants: Wants, *, train: bool) -> Any:
        if self._fails_at == self.calls["forward"]:
            raise TransportError("the coordinator is gone")
        self.calls["forward"] += 1
        self.rows += len(smashed.hidden)
        self._on_the_way.add(number)
        self.most = max(self.most, len(self._on_the_way))
        answer = self._body.forward(number, smashed, wants, train=train)
        self.numbers += smashed.hidden.numel() + answer.result().numel()
        return _Seen(answer, lambda: None if wants.gradient else self._on_the_way.discard(number))

    def backward(self, number: int, gradient: torch.Tensor) -> Any:
        self.calls["backward"] += 1
        answer = self._body.backward(number, gradient)
        self.numbers += gradient.numel() + answer.result().numel()
        return _Seen(answer, lambda: self._on_the_way.discard(number))

    def close(self) -> None:
        self.calls["close"] += 1
        self._body.close()


class _Seen:
    def __init__(self, answer: Any, seen: Any) -> None:
        self._answer, self._seen = answer, seen

    def result(self) -> torch.Tensor:
        self._seen()
        tensor: torch.Tensor = self._answer.result()
        return tensor


class Late:
    """A body that does nothing before it is asked for an answer, and then works in an order of its own."""

    def __init__(self, inner: LocalBody, seed: int) -> None:
        self._inner, self._draw = inner, random.Random(seed)
        self._asked: list[_Owed] = []
        self.in_flight, self.trains = inner.in_flight, inner.trains

    def forward(self, number: int, smashed: Smashed, wants: Wants, *, train: bool) -> "_Owed":
        return self._owe(lambda: self._inner.forward(number, smashed, wants, train=train).result())

    def backward(self, number: int, gradient: torch.Tensor) -> "_Owed":
        return self._owe(lambda: self._inner.backward(number, gradient).result())

    def step(self, factor: float, *, last: bool) -> None:
        self._inner.step(factor, last=last)

    def close(self) -> None:
        self._inner.close()

    def work(self) -> None:
        self._draw.shuffle(self._asked)
        while self._asked:
            self._asked.pop().settle()

    def _owe(self, work: Any) -> "_Owed":
        owed = _Owed(self, work)
        self._asked.append(owed)
        return owed


class _Owed:
    def __init__(self, body: Late, work: Any) -> None:
        self._body, self._work = body, work
        self._answer: torch.Tensor | None = None

    def settle(self) -> None:
        self._answer = self._work()

    def result(self) -> torch.Tensor:
        if self._answer is None:
            self._body.work()
        assert self._answer is not None
        return self._answer
