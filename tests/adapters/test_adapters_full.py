"""Training the weights themselves: everything is in the state, loads back, and saves as what takes the base's place."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedtune.adapters.full import Full
from fedtune.adapters.replaced import put_in, read_replaced
from fedtune.adapters.saved import CARD, REPLACED, REPLACED_CONFIG
from fedtune.adapters.shift import NO_SHIFT, Shift
from fedtune.errors import AdapterError
from fedtune.models.base import LoadedModel
from fedtune.recipe import AdapterSection
from fedtune.state import digest
from fedtune.training.sequential import SequentialStep
from tests.training.parts import adapted_resident, answer_rows, assignment, image_rows, load_plain, text_rows

SECTION = AdapterSection(kind="full")
TASKS = {
    "tiny_bert_folder": ("sequence-classification", text_rows),
    "tiny_vit_folder": ("image-classification", image_rows),
    "tiny_llama_folder": ("causal-lm", answer_rows),
    "tiny_gpt2_folder": ("causal-lm", answer_rows),
}


def full(folder: Path, task: str, section: AdapterSection = SECTION) -> Full:
    head = () if task == "causal-lm" else ("classifier",)
    return Full(LoadedModel(load_plain(folder, task), None, "", head, str(folder)), section, task)


@pytest.mark.parametrize("fixture", TASKS)
def test_every_weight_is_trained_once_and_no_other_tensor(fixture: str, request: pytest.FixtureRequest) -> None:
    task, _ = TASKS[fixture]
    attached = full(request.getfixturevalue(fixture), task)
    own = dict(attached.model.named_parameters())
    assert {name.removeprefix("head.") for name in attached.parameters()} == set(own)
    assert sum(tensor.numel() for tensor in attached.read().values()) == sum(p.numel() for p in own.values())
    assert all(parameter.requires_grad for parameter in own.values())
    assert [n for n in attached.parameters() if n.startswith("head.")] == (
        [] if task == "causal-lm" else ["head.classifier.bias", "head.classifier.weight"]
    )
    assert (attached.slots, attached.scale, attached.shared(), attached.targets()) == (0, 1.0, {}, ())
    assert set(attached.axes().values()) == {()}


@pytest.mark.parametrize("fixture", TASKS)
def test_training_saves_what_puts_the_same_model_together(
    fixture: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    task, make_rows = TASKS[fixture]
    folder = request.getfixturevalue(fixture)
    resident, rows = adapted_resident(folder, SECTION, task, lr=0.01, optimizer="sgd"), make_rows(5)
    before = digest(resident.initial)
    [result] = SequentialStep(resident).train([assignment(resident, rows)])
    assert digest(result.state) != before == digest(resident.initial)
    resident.attached.load(result.state)
    assert digest(resident.attached.read()) == digest(result.state)
    resident.attached.save(tmp_path / "w", base="the base")
    assert {path.name for path in (tmp_path / "w").iterdir()} == {REPLACED, REPLACED_CONFIG, CARD}
    other = load_plain(folder, task)
    other.load_state_dict(load_file(tmp_path / "w" / REPLACED), strict=False)
    again = load_plain(folder, task)
    put_in(read_replaced(tmp_path / "w"), again)
    batch = rows.batch([0, 1, 2])
    with torch.no_grad():
        wanted = resident.attached.model(**batch).logits
        assert torch.equal(other(**batch).logits, wanted)
        assert torch.equal(again(**batch).logits, wanted)
        assert torch.equal(resident.attached.merged()(**batch).logits, wanted)
        assert not torch.equal(load_plain(folder, task)(**batch).logits, wanted)


def test_a_head_that_is_not_trained_is_saved_all_the_same(tiny_bert_folder: Path, tmp_path: Path) -> None:
    attached = full(tiny_bert_folder, "sequence-classification", SECTION.model_copy(update={"head": False}))
    assert not any(name.startswith("head.") for name in attached.parameters())
    assert not attached.model.get_parameter("classifier.weight").requires_grad
    attached.save(tmp_path / "w", base="the base")
    assert "classifier.weight" in load_file(tmp_path / "w" / REPLACED)


def test_what_whole_weights_have_no_place_for_is_refused(tiny_bert_folder: Path) -> None:
    attached = full(tiny_bert_folder, "sequence-classification")
    attached.shift_to(NO_SHIFT)
    attached.load_shared({})
    for asked in (
        lambda: attached.products(attached.read()),
        lambda: attached.shift_to(Shift({"x.D": torch.zeros(1, 1)}, "key")),
        lambda: attached.initialise({}),
        lambda: attached.load_shared({"x": torch.zeros(1)}),
        lambda: attached.load({"x": torch.zeros(1)}),
        lambda: full(tiny_bert_folder, "sequence-classification").load({}),
    ):
        with pytest.raises(AdapterError):
            asked()


def test_weights_of_another_model_are_not_put_in(tiny_bert_folder: Path, tiny_vit_folder: Path, tmp_path: Path) -> None:
    full(tiny_vit_folder, "image-classification").save(tmp_path / "w", base="the base")
    with pytest.raises(AdapterError, match="load the base model 'the base'"):
        put_in(read_replaced(tmp_path / "w"), load_plain(tiny_bert_folder, "sequence-classification"))
