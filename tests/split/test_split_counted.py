"""What crosses the cuts in a round: counted as the codec makes it, and as the plan's formula has it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fedtune.split.activations import encode
from fedtune.split.base import Pending, Smashed, Wants
from fedtune.split.bits import pack_mask
from fedtune.split.joined import joined
from fedtune.split.local import LocalBody, body_copies, body_model, local_bodies
from fedtune.split.plan import plan_split
from server.intake import _whole
from tests.split.split_rounds import home, recipe, rows, train
from tests.training.parts import ListRows

COUNT, TOKENS = 8, 3


class Encoding:
    """A body that adds up the bytes of every tensor and mask that it is given and gives, encoded."""

    def __init__(self, body: LocalBody, pack: Callable[[torch.Tensor], bytes]) -> None:
        self.in_flight, self.trains = body.in_flight, body.trains
        self.up = self.down = 0
        self._body, self._pack = body, pack

    def forward(self, number: int, smashed: Smashed, wants: Wants, *, train: bool) -> Pending:
        answer = self._body.forward(number, smashed, wants, train=train)
        self.up += len(self._pack(smashed.hidden)) + len(pack_mask(smashed.mask))
        self.down += len(self._pack(answer.result()))
        return answer

    def backward(self, number: int, gradient: torch.Tensor) -> Pending:
        answer = self._body.backward(number, gradient)
        self.up += len(self._pack(gradient))
        self.down += len(self._pack(answer.result()))
        return answer

    def step(self, factor: float, *, last: bool) -> None:
        self._body.step(factor, last=last)

    def close(self) -> None:
        self._body.close()


@pytest.mark.parametrize("family", ["vit", "bert"])
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("fp32", {}),
        ("fp16", {"prompt_tokens": 3}),
        ("int8", {"tail_layers": 0}),
        ("topk", {"prompt_tokens": 3, "prompt_at": "cut"}),
    ],
    ids=str,
)
def test_a_round_counts_the_bytes_of_what_is_encoded(family: str, kind: Any, more: dict[str, Any]) -> None:
    split = {"activations": kind, "keep": 0.5, "local_epochs": 1, **more}
    made = recipe(family, split=split)
    body = Encoding(LocalBody(body_model(made), made.split), lambda tensor: encode(tensor, kind, made.split.topk))
    metrics = train(home(family, split=split), rows(family, COUNT), lambda _: body).metrics
    assert (metrics["body_up"], metrics["body_down"]) == (body.up, body.down)
    assert body.up >= body.down > 0


@pytest.mark.parametrize("more", [{}, {"prompt_tokens": 3}, {"tail_layers": 0}, {"body": "full"}], ids=str)
@pytest.mark.parametrize("family", ["vit", "bert"])
def test_a_round_sends_what_the_plan_says(family: str, more: dict[str, Any]) -> None:
    split = {"keep": 0.5, "local_epochs": 1, **more}
    data = rows(family, COUNT)
    if family == "bert":  # no token of padding, as the plan assumes
        data = ListRows([{**row, "input_ids": row["input_ids"][:TOKENS]} for row in data.examples])
    asked = recipe(family, split=split)
    planned = plan_split(asked, rows=COUNT, tokens=TOKENS)
    cost = next(cost for cost in planned.cuts if cost.cut == planned.wanted)
    copies = body_copies(asked)
    if copies:
        copies.offer("r", 3, joined(home(family, split=split)).initial)
    metrics = train(home(family, split=split), data, local_bodies(asked, copies)).metrics
    expected = cost.round.up - cost.update.up, cost.round.down - cost.update.down
    assert (metrics["body_up"], metrics["body_down"]) == pytest.approx(expected, rel=0.01)


def test_a_client_that_does_not_count_bytes_cannot_break_a_record() -> None:
    assert [_whole(said) for said in (-5.0, 0.0, 7.9, 1e300)] == [0, 0, 7, 2**53]
