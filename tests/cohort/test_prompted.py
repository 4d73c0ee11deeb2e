"""Prompts in shared passes: each client's own before each of its rows, in every family, padded or packed."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from fedtune.adapters.prompt import PROMPT
from fedtune.cohort.fits import fits
from fedtune.cohort.lane import Lane
from fedtune.cohort.packed import PackedPass
from fedtune.cohort.place import cohort_layers, in_place
from fedtune.cohort.plain_pass import PlainPass
from fedtune.training.resident import Resident
from tests.cohort.adapted import Parts, adapted, assert_agree, close, gradients, padded, rows_of
from tests.split.split_models import FAMILIES
from tests.training.parts import ListRows

LENGTHS = (7, 3, 12, 7, 2, 9, 12)
TOKENS = 3
"""What `adapted` gives a prompt."""


def parts_of(family: str) -> Parts:
    rows, others = rows_of(family, LENGTHS), rows_of(family, (5, 11), seed=1)
    return [(rows, [0, 2, 4, 5]), (others, [1]), (rows, [6, 1, 3])]


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_packed_pass_computes_what_the_model_does_with_its_prompt(family: str) -> None:
    resident = adapted(family, kind="prompt")
    assert fits(resident) is None
    a_pass = PackedPass(resident, None)
    assert_agree(resident, a_pass, parts_of(family))
    assert "stands before the layers" in str(a_pass.unkept)
    assert (a_pass.unpruned is None) == (family != "dinov2")


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "vit", "dinov2", "llama", "gpt2"])
def test_each_clients_rows_have_its_own_prompt(family: str) -> None:
    """The oracle is the model with one client's tensors at a time."""
    resident, lane, parts = adapted(family, kind="prompt"), Lane(), parts_of(family)
    draw = torch.Generator().manual_seed(4)
    stacked = {
        name: torch.randn(len(parts), *p.shape, generator=draw, dtype=torch.float64).requires_grad_()
        for name, p in resident.attached.parameters().items()
    }
    expected = [alone(resident, stacked, client, part) for client, part in enumerate(parts)]
    passes = (PlainPass(resident, lane), PackedPass(resident, lane))
    with in_place(resident.attached.model, cohort_layers(resident.attached, lane)):
        for a_pass in passes:
            lane.tensors = stacked
            predicted = a_pass.logits(parts)
            close(predicted.logits, torch.cat([logits for logits, _ in expected]))
            loss = cross_entropy(predicted.logits, predicted.targets, reduction="sum")
            found = torch.autograd.grad(loss, list(stacked.values()))
            for name, gradient in zip(stacked, found, strict=True):
                close(gradient, torch.stack([own[name] for _, own in expected]))


def alone(
    resident: Resident, stacked: dict[str, torch.Tensor], client: int, part: tuple[ListRows, list[int]]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    with torch.no_grad():
        for name, parameter in resident.attached.parameters().items():
            parameter.copy_(stacked[name][client])
    predicted = padded(resident, [part])
    return predicted[0].logits, gradients(resident, predicted)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_row_without_tokens_is_its_prompt(family: str) -> None:
    resident = adapted(family, kind="prompt")
    rows = ListRows([{"input_ids": [7, 8, 9], "labels": 1}, {"input_ids": [], "labels": 2}])
    assert_agree(resident, PackedPass(resident, None), [(rows, [0, 1])])


@pytest.mark.parametrize(("family", "tokens"), [("bert", 11), ("gpt2", 11), ("dinov2", 5)])
def test_a_row_costs_its_prompt_too(family: str, tokens: int) -> None:
    resident, parts = adapted(family, kind="prompt"), parts_of(family)
    whole = PackedPass(resident, None, prune=False)
    assert whole.tokens(parts[1]) == [tokens + TOKENS]
    assert PlainPass(resident, Lane()).tokens(parts[1]) == [{"dinov2": 4}.get(family, tokens) + TOKENS]


def test_who_has_no_number_left_touches_nobody() -> None:
    resident, lane, parts = adapted("gpt2", kind="prompt"), Lane(), parts_of("gpt2")
    prompts = torch.randn(3, *resident.attached.shapes()[PROMPT], dtype=torch.float64)
    results = []
    with in_place(resident.attached.model, cohort_layers(resident.attached, lane)):
        for bad in (0.0, float("nan")):
            lane.tensors = {PROMPT: torch.cat((prompts[:1], prompts[1:2] + bad, prompts[2:]))}
            predicted = PackedPass(resident, lane).logits(parts)
            results.append(predicted.logits[(predicted.owners < 4) | (predicted.owners > 4)])
    close(results[1], results[0])
