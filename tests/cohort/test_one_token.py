"""Attention of one token a row without keys and values: what attention with them is, in numbers and gradients."""

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from fedtune.cohort.lane import Lane
from fedtune.cohort.mapped import maps_of
from fedtune.cohort.maps import Map
from fedtune.cohort.one_token import one_token
from fedtune.cohort.packed import PackedPass
from fedtune.cohort.stream import Stream
from tests.cohort.adapted import adapted
from tests.split.split_models import LAYERS

HEADS, WIDTH, MODEL, RANK = 2, 3, 5, 2


class Numbers:
    """Random tensors in double precision that gradients are taken by."""

    def __init__(self, seed: int) -> None:
        self._draw = torch.Generator().manual_seed(seed)
        self.all: list[torch.Tensor] = []

    def of(self, *shape: int) -> torch.Tensor:
        """The next one."""
        self.all.append(torch.randn(*shape, generator=self._draw, dtype=torch.float64).requires_grad_())
        return self.all[-1]

    def map(self, clients: int, kind: str) -> Map:
        """A frozen layer alone, with a LoRA of each client's own, or with a square of its own."""
        out, bias = HEADS * WIDTH, self.of(HEADS * WIDTH)
        base = (self.of(out, MODEL),)
        if kind == "lora":
            return Map((base, (self.of(clients, RANK, MODEL), self.of(clients, out, RANK))), bias)
        if kind == "square":
            shared = self.of(RANK, MODEL), self.of(clients, RANK, RANK), self.of(out, RANK)
            return Map((base, shared), bias)
        return Map((base,), bias)


def dense(one: Map, client: int) -> torch.Tensor:
    """(M, N): the map of a client as one matrix."""
    total = torch.zeros(HEADS * WIDTH, MODEL, dtype=torch.float64)
    for path in one.paths:
        product = torch.eye(MODEL, dtype=torch.float64)
        for matrix in path:
            product = (matrix if matrix.ndim == 2 else matrix[client]) @ product
        total = total + product
    return total


def by_keys_and_values(
    q: torch.Tensor, x: torch.Tensor, key: Map, value: Map, rows: list[list[int]], read: list[int]
) -> torch.Tensor:
    """Row after row, as it is written in the books."""
    assert key.bias is not None
    assert value.bias is not None
    outputs, start, row = [], 0, 0
    for client, lengths in enumerate(rows):
        for length in lengths:
            own = x[start : start + length]
            k = (own @ dense(key, client).T + key.bias).view(length, HEADS, WIDTH).transpose(0, 1)
            v = (own @ dense(value, client).T + value.bias).view(length, HEADS, WIDTH).transpose(0, 1)
            outputs.append(scaled_dot_product_attention(q[row][:, None], k, v, scale=0.7)[:, 0])
            start, row = start + length, row + 1
    assert len(read) == row
    return torch.stack(outputs)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(1, 9), max_size=3), min_size=1, max_size=3).filter(any),
    kinds=st.tuples(st.sampled_from(["", "lora", "square"]), st.sampled_from(["", "lora", "square"])),
    seed=st.integers(0, 99),
)
def test_it_is_attention_in_numbers_and_gradients(rows: list[list[int]], kinds: tuple[str, str], seed: int) -> None:
    lengths = [length for own in rows for length in own]
    numbers = Numbers(seed)
    q, x = numbers.of(len(lengths), HEADS, WIDTH), numbers.of(sum(lengths), MODEL)
    key, value = (numbers.map(len(rows), kind) for kind in kinds)
    starts = [sum(lengths[:row]) for row in range(len(lengths))]
    stream = Stream(tuple(map(len, rows)), tuple(lengths), torch.tensor(starts), (1,) * len(lengths))
    found = one_token(q, x, key, value, stream.read_to_all, stream.rows, 0.7)
    expected = by_keys_and_values(q, x, key, value, rows, starts)
    torch.testing.assert_close(found, expected)
    along = torch.arange(1.0, found.numel() + 1, dtype=torch.float64).view_as(found)
    for one, other in zip(
        torch.autograd.grad(found, numbers.all, along, allow_unused=True, materialize_grads=True),
        torch.autograd.grad(expected, numbers.all, along, allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_numbers_that_are_not_finite_stay_in_their_row() -> None:
    numbers = Numbers(1)
    q, x = numbers.of(3, HEADS, WIDTH), numbers.of(9, MODEL)
    x = torch.cat([x[:4], torch.full((2, MODEL), torch.nan, dtype=torch.float64), x[6:]])
    stream = Stream((2, 1), (4, 2, 3), torch.tensor([0, 4, 6]), (1, 1, 1))
    key, value = numbers.map(2, "lora"), numbers.map(2, "")
    found = one_token(q, x, key, value, stream.read_to_all, stream.rows, 1.0)
    assert found.isfinite().all(dim=(1, 2)).tolist() == [True, False, True]


def test_keys_and_values_of_the_last_layer_are_not_kept_where_nobody_asks_for_them() -> None:
    for kind in ("square", "lora"):
        resident = adapted("bert", first=LAYERS - 1, kind=kind)
        prefix = PackedPass(resident, Lane())._prefix
        assert prefix is not None
        assert prefix.projections == ("attention.self.query",)
    several = PackedPass(adapted("bert", first=LAYERS - 1, kind="ravan"), Lane())._prefix
    causal = PackedPass(adapted("llama", first=LAYERS - 1), Lane())._prefix
    assert several is not None
    assert causal is not None
    assert len(several.projections) == len(causal.projections) == 3


def test_numbers_of_several_kinds_and_other_layers_have_no_maps() -> None:
    layer = torch.nn.Linear(MODEL, MODEL)
    assert len(maps_of([layer, layer], torch.float32)) == 2
    assert maps_of([layer, torch.nn.Linear(MODEL, MODEL, dtype=torch.bfloat16)], torch.float32) == ()
    assert maps_of([layer, torch.nn.Bilinear(2, 2, 2)], torch.float32) == ()
    resident = adapted("bert", first=LAYERS - 1)
    prefix = PackedPass(replace(resident, bf16=True), Lane())._prefix
    assert prefix is not None
    assert len(prefix.projections) == 3
