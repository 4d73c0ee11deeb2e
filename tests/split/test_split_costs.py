"""The plan's formulas against what a client really trains, sends, computes and holds."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fedtune.split.activations import encode
from fedtune.split.crossing import Crossing
from fedtune.split.cut import Cut
from fedtune.split.outline import outline_of
from fedtune.split.plan import client_flops, plan_split
from fedtune.split.trained import trained_of
from tests.split.measured import PeakMemory, client_of, recipe, step
from tests.split.split_models import FAMILIES, LAYERS, batch, section, whole

ROWS, LENGTH = 2, 7
PROMPTS = [{}, {"prompt_tokens": 3}, {"prompt_tokens": 3, "prompt_at": "cut"}, {"train_head": True}]


def cut(head: int, tail: int) -> Cut:
    return Cut(head, LAYERS - head - tail, tail)


def full_batch(family: str) -> dict[str, torch.Tensor]:
    """Every token is there, as the plan assumes."""
    inputs = batch(family, rows=ROWS, length=LENGTH)
    if "attention_mask" in inputs:
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    return inputs


@pytest.mark.parametrize("family", FAMILIES)
def test_an_outline_has_the_numbers_of_the_loaded_model(family):
    outline = outline_of(section(family))
    assert outline.whole == sum(p.numel() for p in whole(family).model.parameters())
    assert outline.layers == LAYERS


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("full", {}),
        ("full", {"prompt_tokens": 3, "deep_prompts": True}),
        ("lora", {"train_head": True}),
        ("square", {}),
    ],
    ids=str,
)
def test_as_many_numbers_are_planned_as_are_trained(family, kind, more):
    asked = recipe(family, where := cut(1, 1), kind=kind, **more)
    attached, _ = client_of(asked, where)
    planned = trained_of(asked, outline_of(asked.model), where)
    assert planned.numbers == sum(p.numel() for p in attached.parameters().values())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("more", PROMPTS, ids=str)
@pytest.mark.parametrize("where", [cut(1, 1), cut(2, 0), cut(0, 2)], ids=str)
def test_as_many_tokens_are_planned_as_the_parts_want(family, more, where):
    if more.get("train_head") and not where.head:
        return
    asked = recipe(family, where, **more)
    _, parts = client_of(asked, where)
    outline = outline_of(asked.model)
    inputs, wants = full_batch(family), parts.wants()
    hidden = parts.head(inputs).hidden.detach()
    tensors = [hidden, hidden[:, wants.output]]
    tensors += [] if wants.gradient is None else [hidden[:, wants.output], hidden[:, wants.gradient]]
    planned = Crossing.of(asked.split, where, outline.family, outline.tokens(asked.model, LENGTH))
    assert planned.bytes(asked.split, outline.width, ROWS).both == sum(len(encode(t, "fp32")) for t in tensors)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("kind", "more"), [("full", more) for more in PROMPTS] + [("lora", PROMPTS[1])], ids=str)
def test_flops_by_formula_are_those_that_pytorch_counts(family, kind, more):
    asked = recipe(family, where := cut(1, 1), kind=kind, rows=ROWS, **more)
    attached, parts = client_of(asked, where)
    attached.model.set_attn_implementation("eager")
    outline = outline_of(asked.model)
    planned = ROWS * sum(client_flops(asked, outline, where, outline.tokens(asked.model, LENGTH)))
    with FlopCounterMode(display=False) as counter:
        step(parts, full_batch(family))
    # Where nothing before the cut is trained, the first trained layer passes no gradient on, which is not left out.
    assert planned == pytest.approx(counter.get_total_flops(), rel=0.01 if more.get("prompt_tokens") else 0.25)


@pytest.mark.parametrize("family", ["vit", "bert", "gpt2", "llama"])
@pytest.mark.parametrize("more", [{}, {"prompt_tokens": 3}], ids=str)
def test_memory_by_formula_holds_the_peak_that_is_measured(family, more):
    rows = 8
    asked = recipe(family, where := cut(2, 1), rows=rows, **more)
    planned = next(c for c in plan_split(asked, rows=10, tokens=LENGTH).cuts if c.cut == where).memory
    attached, parts = client_of(asked, where)
    trained = attached.parameters()
    held = sum(p.numel() for p in {*attached.model.parameters(), *trained.values()})
    assert planned.weights == 4 * held
    inputs = {name: tensor.repeat_interleave(rows // ROWS, dim=0) for name, tensor in full_batch(family).items()}
    attached.model.train()
    optimizer = torch.optim.AdamW(trained.values(), foreach=False)
    with PeakMemory() as memory:
        for _ in range(2):
            step(parts, inputs)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    assert 0.5 < memory.peak / (planned.training + planned.activations) < 1.05
