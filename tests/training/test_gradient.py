"""Weight gradients against autograd on an unfrozen model, and against finite differences in float64."""

from pathlib import Path

import pytest
import torch

from fedtune.adapters.shift import Shift
from fedtune.errors import DataError
from fedtune.recipe import AdapterSection
from fedtune.state import digest
from fedtune.training.gradient import mean_gradients
from fedtune.training.order import draw_rows
from tests.training.parts import (
    ListRows,
    adapted_resident,
    answer_rows,
    image_rows,
    load_plain,
    random_state,
    text_rows,
    tiny_resident,
)

CASES = [
    ("sequence-classification", "tiny_bert_folder", text_rows),
    ("image-classification", "tiny_vit_folder", image_rows),
    ("causal-lm", "tiny_llama_folder", answer_rows),
    ("causal-lm", "tiny_gpt2_folder", answer_rows),
]


def plain_loss(model: torch.nn.Module, rows: ListRows, indices: list[int]) -> torch.Tensor:
    """Cross entropy in the model's own precision: transformers' losses compute in fp32."""
    batch = rows.batch(indices)
    labels = batch.pop("labels")
    if "pixel_values" in batch:
        batch["pixel_values"] = batch["pixel_values"].to(model.dtype)
    logits = model(**batch).logits
    if labels.ndim > 1:
        logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return torch.nn.functional.cross_entropy(logits, labels)


def out_in(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A gradient of `name`'s weight as (out, in): Conv1D keeps (in, out)."""
    return tensor if isinstance(model.get_submodule(name), torch.nn.Linear) else tensor.T


@pytest.mark.parametrize(("task", "fixture", "make_rows"), CASES)
def test_gradients_are_those_of_autograd_on_an_unfrozen_model(
    task: str, fixture: str, make_rows: object, request: pytest.FixtureRequest
) -> None:
    """In passes of three against one batch; the adapter and head are those of some client, and must not be seen."""
    folder = request.getfixturevalue(fixture)
    resident = tiny_resident(folder, task, batch_size=3)
    rows = make_rows(20)
    resident.attached.load(random_state(resident))
    gradients = mean_gradients(resident, rows, limit=10, seed=4)
    assert tuple(gradients) == resident.attached.targets()
    model = load_plain(folder, task)
    plain_loss(model, rows, draw_rows(20, 10, 4)).backward()
    for name, gradient in gradients.items():
        expected = out_in(model, name, model.get_submodule(name).weight.grad)
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, expected, atol=1e-6 * float(expected.abs().max()) + 1e-9, rtol=1e-3)


# Not Llama: its norms compute in fp32 whatever the model's precision, too coarse for differences.
@pytest.mark.parametrize(("task", "fixture", "make_rows"), [case for case in CASES if "llama" not in case[1]])
def test_gradients_are_the_slopes_of_the_loss(
    task: str, fixture: str, make_rows: object, request: pytest.FixtureRequest
) -> None:
    """Central differences in float64 along random directions of each target's weight."""
    folder = request.getfixturevalue(fixture)
    rows = make_rows(6)
    gradients = mean_gradients(tiny_resident(folder, task, batch_size=2), rows, limit=6, seed=0)
    model = load_plain(folder, task).double().requires_grad_(False)
    draw = torch.Generator().manual_seed(0)
    for name, gradient in gradients.items():
        weight = model.get_submodule(name).weight
        direction = torch.randn(weight.shape, generator=draw, dtype=torch.float64)
        slopes = []
        for step in (1e-4, -1e-4):
            weight.add_(direction, alpha=step)
            slopes.append(float(plain_loss(model, rows, list(range(6)))) / (2 * step))
            weight.sub_(direction, alpha=step)
        slope = float((gradient.double() * out_in(model, name, direction)).sum())
        assert slope == pytest.approx(sum(slopes), rel=1e-4, abs=1e-7)


def test_weights_stay_frozen_and_adapter_mode_and_random_state_are_put_back(tiny_bert_folder: Path) -> None:
    resident = tiny_resident(tiny_bert_folder)
    resident.attached.load(random_state(resident))
    model = resident.loaded.model
    before = digest(resident.attached.read()), digest(model.state_dict()), torch.get_rng_state().tolist()
    hooks = [len(m._forward_hooks) for m in model.modules()]
    mean_gradients(resident, text_rows(6), limit=6, seed=0)
    assert (digest(resident.attached.read()), digest(model.state_dict()), torch.get_rng_state().tolist()) == before
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"classifier.weight", "classifier.bias"}
    assert all(p.grad is None for p in [*model.parameters(), *resident.attached.parameters().values()])


def test_gradients_are_read_at_the_base_weights_whatever_they_were_shifted_by(tiny_bert_folder: Path) -> None:
    resident = adapted_resident(tiny_bert_folder, AdapterSection(kind="square", rank=2, targets="attention"))
    rows = text_rows(6)
    before = digest(mean_gradients(resident, rows, limit=6, seed=0))
    name = resident.attached.targets()[0]
    resident.attached.shift_to(Shift().then({f"{name}.D": torch.ones(resident.attached.target_shapes()[name])}))
    assert digest(mean_gradients(resident, rows, limit=6, seed=0)) == before


def test_the_limit_reads_that_many_rows_drawn_by_the_seed(tiny_bert_folder: Path) -> None:
    resident = tiny_resident(tiny_bert_folder, batch_size=2)
    rows = text_rows(12)
    first, again, other = (digest(mean_gradients(resident, rows, limit=5, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_a_client_without_rows_says_so(tiny_bert_folder: Path) -> None:
    resident = tiny_resident(tiny_bert_folder)
    with pytest.raises(DataError, match="no rows to read a gradient from"):
        mean_gradients(resident, ListRows([]), limit=5, seed=0)
