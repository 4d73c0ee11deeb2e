"""Packed passes compute what the model's own padded passes do, for every family, adapter and choice of layers."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from fedtune.cohort.lane import Lane
from fedtune.cohort.packed import PackedPass, why_not_packed
from fedtune.cohort.place import cohort_layers, in_place
from fedtune.cohort.plain_pass import PlainPass
from tests.cohort.adapted import Parts, adapted, assert_agree, close, rows_of
from tests.split.split_models import FAMILIES, LAYERS

LENGTHS = (7, 3, 12, 7, 2, 9, 12)


def parts_of(family: str) -> Parts:
    rows, others = rows_of(family, LENGTHS), rows_of(family, (5, 11), seed=1)
    return [(rows, [0, 2, 4, 5]), (others, [1]), (rows, [6, 1, 3])]


@pytest.mark.parametrize("first", [0, LAYERS - 1])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_logits_and_gradients_are_those_of_padded_passes(family: str, first: int) -> None:
    resident = adapted(family, first=first)
    assert why_not_packed(resident) is None
    a_pass = PackedPass(resident, None)
    for _ in range(2 if first else 1):  # the second time from what is kept
        assert_agree(resident, a_pass, parts_of(family))
    assert (a_pass.unkept is None) == (first > 0)
    assert (a_pass.unpruned is None) == (family != "dinov2")


CHOICES = {
    "lora": ("bert", "lora", 1, ()),
    "ravan": ("llama", "ravan", LAYERS - 1, ()),
    "queries": ("roberta", "square", LAYERS - 1, ("query",)),
    "keys": ("qwen2", "square", LAYERS - 1, ("k_proj",)),
    "values": ("vit", "square", LAYERS - 1, ("v_proj",)),
    "mlp": ("distilbert", "lora", LAYERS - 1, ("lin1", "lin2")),
    "fused": ("gpt2", "lora", LAYERS - 2, ("c_attn",)),
    "output": ("gpt2", "square", LAYERS - 1, ("mlp.c_proj",)),
}


@pytest.mark.parametrize("choice", list(CHOICES))
def test_any_layer_of_any_kind_may_be_adapted(choice: str) -> None:
    family, kind, first, only = CHOICES[choice]
    resident = adapted(family, first=first, kind=kind, only=only)
    a_pass = PackedPass(resident, None)
    for _ in range(2):
        assert_agree(resident, a_pass, parts_of(family))


shared = cache(adapted)


@settings(max_examples=10)
@given(
    family=st.sampled_from(["bert", "llama"]),
    lengths=st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=4), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_rows_of_any_lengths(family: str, lengths: list[list[int]], seed: int) -> None:
    resident = shared(family, first=LAYERS - 1, only=("query", "v_proj"))
    parts: Parts = [(rows_of(family, some, seed=seed), list(range(len(some)))) for some in lengths]
    a_pass = PackedPass(resident, None)
    predicted = a_pass.logits(parts)
    if len(predicted.targets):
        assert_agree(resident, a_pass, parts, all_matter=False)
    else:
        assert predicted.logits.shape == (0, resident.attached.model.config.vocab_size)


@pytest.mark.parametrize("family", ["bert", "vit", "dinov2", "gpt2", "mistral"])
def test_each_client_has_its_own_adapter(family: str) -> None:
    resident, lane, parts = adapted(family, first=LAYERS - 2), Lane(), parts_of(family)
    draw = torch.Generator().manual_seed(4)
    tensors = {
        name: torch.randn(len(parts), *p.shape, generator=draw, dtype=torch.float64).requires_grad_()
        for name, p in resident.attached.parameters().items()
    }
    packed, results = PackedPass(resident, lane), []
    with in_place(resident.attached.model, cohort_layers(resident.attached, lane)):
        for a_pass in (PlainPass(resident, lane), packed, packed):
            lane.tensors = tensors
            predicted = a_pass.logits(parts)
            loss = cross_entropy(predicted.logits, predicted.targets, reduction="none")
            loss = loss.new_zeros(len(LENGTHS) + 1).index_add(0, predicted.owners, loss)
            results.append((loss, *torch.autograd.grad(loss.sum(), list(tensors.values()))))
    for other in results[1:]:
        for own, expected in zip(other, results[0], strict=True):
            close(own, expected)


def test_a_row_costs_what_is_left_to_compute_of_it() -> None:
    parts = parts_of("bert")
    costs = {first: PackedPass(adapted("bert", first=first), None).tokens(parts[0]) for first in (0, LAYERS - 1)}
    assert all(0 < low < high for low, high in zip(costs[LAYERS - 1], costs[0], strict=True))
    assert all(cost <= LENGTHS[row] for cost, row in zip(costs[0], parts[0][1], strict=True))
    whole = PackedPass(adapted("dinov2"), None)
    assert whole.tokens(parts_of("dinov2")[1]) == [5]


def test_what_is_done_is_told() -> None:
    assert PackedPass(adapted("bert", first=2), None).notes() == (
        "rows end to end without padding",
        "layers 0-1 kept with the next one's projections",
        "last layer on the class token alone",
    )
    mixed = PackedPass(adapted("llama", first=1, only=("v_proj",)), None)
    assert mixed.notes() == (
        "rows end to end without padding",
        "layer 0 kept with the next one's projections",
        "last layer on the answer tokens alone",
    )
    plain = PackedPass(adapted("dinov2"), None)
    assert (plain.notes(), plain.unpruned, plain.unkept) == (
        (),
        "its head reads every token",
        "the first layer is trained",
    )


def test_models_without_a_place_in_the_table_are_passed_whole() -> None:
    resident = adapted("bert")
    resident.attached.model.config.model_type = "mpnet"
    assert why_not_packed(resident) == "fedtune does not know where a BertForSequenceClassification keeps its layers"
    windows = adapted("qwen2")
    windows.attached.model.model.layers[0].self_attn.sliding_window = 4
    assert why_not_packed(windows) == "its attention has a sliding window"
