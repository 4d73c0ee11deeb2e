"""Adapter folders: what is written is read back, damage is one sentence, and a failed write loses nothing."""

import json
import math
import resource
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from fedtune.adapters.read import read_adapter
from fedtune.adapters.saved import CARD, CONFIG, WEIGHTS
from fedtune.errors import AdapterError, RunError
from fedtune.state import digest
from tests.adapters.adapter_models import KINDS, attached_to, batch, logits, product, shake

FILES = {CONFIG, WEIGHTS, CARD}


@pytest.fixture(scope="module")
def written(tiny_bert_folder, tmp_path_factory):
    """A square adapter with a trained head on the disk, and the one in memory."""
    _, attached = attached_to(tiny_bert_folder, "bert", targets="attention")
    shake(attached)
    folder = tmp_path_factory.mktemp("written") / "adapter"
    attached.save(folder, base="tiny")
    return folder, attached


@pytest.fixture
def copied(written, tmp_path):
    return shutil.copytree(written[0], tmp_path / "adapter")


def test_what_is_written_is_read_back(written):
    folder, attached = written
    saved, found = attached.saved("tiny"), read_adapter(folder)
    assert digest(found.tensors()) == digest(saved.tensors())
    assert (found.base, set(found.ranks().values()), found.head_modules) == ("tiny", {4}, ("classifier",))
    assert {path.name for path in folder.iterdir()} == FILES
    for name in attached.targets():
        a, b = found.products[name]
        expected = product(attached.model.get_submodule(name))
        torch.testing.assert_close(b.double() @ a.double(), expected, rtol=0, atol=1e-6)


def test_two_saves_of_one_state_are_the_same_bytes(written, tmp_path):
    folder, attached = written
    attached.save(tmp_path / "again", base="tiny")
    assert all((tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes() for name in FILES)


def test_the_folder_names_its_base_so_that_peft_finds_it(tiny_llama_folder, tmp_path):
    _, attached = attached_to(tiny_llama_folder, "llama")
    shake(attached)
    attached.save(tmp_path / "adapter", base=str(tiny_llama_folder))
    found = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert (logits(found, "llama") - logits(attached.model, "llama")).abs().max() <= 1e-5


LIBRARY = {
    "ia3": {"kind": "peft", "init": "random", "peft_type": "ia3"},
    "prompts": {
        "kind": "peft",
        "init": "random",
        "peft_type": "prompt_tuning",
        "peft_options": ("num_virtual_tokens=3",),
    },
}


@pytest.mark.parametrize("kind", [*KINDS, *LIBRARY])
def test_a_head_of_several_modules_goes_along(tiny_bert_folder, kind, tmp_path):
    """A pooler that the checkpoint lacks is part of the head, lies deep in the model, and would be random in PEFT."""
    base = shutil.copytree(tiny_bert_folder, tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
    assert len(kept) < len(weights)
    save_file(kept, base / "model.safetensors", metadata={"format": "pt"})
    loaded, attached = attached_to(base, "bert", **{**KINDS, **LIBRARY}[kind])
    assert loaded.head == ("bert.pooler", "classifier")
    assert "head.bert.pooler.dense.weight" in attached.parameters()
    assert not any("pooler" in name for name in attached.targets())
    shake(attached)
    attached.save(tmp_path / "adapter", base=str(base))
    fresh = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    found = PeftModel.from_pretrained(fresh, tmp_path / "adapter")
    assert (logits(found, "bert") - logits(attached.model, "bert")).abs().max() <= 1e-5


def test_a_llama_classifier_exports_its_score_head(tiny_llama_folder, tmp_path):
    from fedtune.adapters.attach import attach
    from fedtune.models.load import load_model
    from fedtune.recipe import AdapterSection, ModelSection

    section = ModelSection(name=str(tiny_llama_folder), task="sequence-classification", labels=("a", "b", "c"))
    loaded = load_model(section, device=torch.device("cpu"), seed=1)
    attached = attach(loaded, AdapterSection(rank=4), task=section.task)
    assert "head.score.weight" in attached.parameters()
    shake(attached)
    attached.save(tmp_path / "adapter", base=str(tiny_llama_folder))
    fresh = AutoModelForSequenceClassification.from_pretrained(tiny_llama_folder, num_labels=3, pad_token_id=0)
    found = PeftModel.from_pretrained(fresh, tmp_path / "adapter")
    assert (logits(found, "llama") - logits(attached.model, "llama")).abs().max() <= 1e-5


def break_config(**fields):
    def change(folder: Path) -> None:
        path = folder / CONFIG
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


def change_tensors(change):
    def apply(folder: Path) -> None:
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)

    return apply


def spoil(tensors):
    next(iter(tensors.values())).view(-1)[0] = math.nan
    return tensors


DAMAGE = {
    "no folder": (shutil.rmtree, "holds no adapter_config.json"),
    "no config": (lambda folder: (folder / CONFIG).unlink(), "holds no adapter_config.json"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "pickled weights are never opened"),
    "no JSON": (lambda folder: (folder / CONFIG).write_text("{"), "cannot be read"),
    "a list": (lambda folder: (folder / CONFIG).write_text("[1]"), "cannot be read"),
    "no text": (lambda folder: (folder / CONFIG).write_bytes(b"\xff\xfe\x00"), "cannot be read"),
    "deep": (lambda folder: (folder / CONFIG).write_text("[" * 10_000), "cannot be read"),
    "rank zero": (break_config(r=0), r"cannot be read \(r: "),
    "another rank": (break_config(r=3), "rank 3"),
    "another method": (break_config(peft_type="IA3"), "plain LoRA"),
    "a variant": (break_config(use_dora=True), "plain LoRA"),
    "several ranks": (break_config(rank_pattern={"query": 2}), "rank 2"),
    "no rank": (break_config(rank_pattern={"query": 0}), r"cannot be read \(rank_pattern"),
    "no alpha": (break_config(alpha_pattern={"query": math.inf}), r"cannot be read \(alpha_pattern"),
    "truncated": (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]), "is damaged"),
    "empty": (lambda folder: (folder / WEIGHTS).write_bytes(b""), "is damaged"),
    "NaN": (change_tensors(spoil), "holds NaN"),
    "integers": (change_tensors(lambda tensors: {n: t.to(torch.int8) for n, t in tensors.items()}), "no real numbers"),
    "no factors": (change_tensors(lambda tensors: {n: t for n, t in tensors.items() if "lora" not in n}), "no LoRA"),
    "half a pair": (change_tensors(lambda t: {n: x for n, x in t.items() if "query.lora_B" not in n}), "lora_A and"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_adapter_is_one_sentence(copied, name):
    damage, sentence = DAMAGE[name]
    damage(copied)
    with pytest.raises(AdapterError, match=sentence) as caught:
        read_adapter(copied)
    assert "\n" not in str(caught.value)


@given(st.data())
def test_no_changed_byte_raises_anything_but_an_adapter_error(written, tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    shutil.copytree(written[0], folder, dirs_exist_ok=True)
    path = folder / data.draw(st.sampled_from([CONFIG, WEIGHTS]))
    raw = bytearray(path.read_bytes())
    # Most of a safetensors file is numbers: the header is where a reader can stumble.
    for place in data.draw(st.lists(st.integers(0, min(len(raw), 1500) - 1), min_size=1, max_size=4)):
        raw[place] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw[: data.draw(st.integers(0, len(raw)))]) if data.draw(st.booleans()) else bytes(raw))
    with suppress(AdapterError):
        read_adapter(folder)


def test_an_adapter_with_nan_is_not_written(tiny_bert_folder, tmp_path):
    _, attached = attached_to(tiny_bert_folder, "bert")
    attached.load({name: tensor.fill_(math.nan) for name, tensor in attached.read().items()})
    with pytest.raises(AdapterError, match="holds NaN or infinity"):
        attached.save(tmp_path / "adapter", base="tiny")
    assert not list(tmp_path.iterdir())


def test_other_peoples_files_are_never_replaced(written, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(AdapterError, match=r"holds 'thesis.txt', which is no part of an adapter"):
        written[1].save(tmp_path, base="tiny")
    with pytest.raises(AdapterError, match="is a file"):
        written[1].save(tmp_path / "thesis.txt", base="tiny")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@contextmanager
def files_no_larger_than(size: int):
    """As on a disk that fills up: writing fails in the middle of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_adapter_as_it_was(written, copied):
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    with files_no_larger_than(2000), pytest.raises(RunError, match="cannot be written"):
        written[1].save(copied, base="another")
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before
    assert [path.name for path in copied.parent.iterdir()] == ["adapter"]


def test_a_base_name_cannot_break_the_model_card(written, tmp_path):
    import yaml

    name = 'C:\\models\\"my": model'
    written[1].save(tmp_path / "adapter", base=name)
    front = (tmp_path / "adapter" / CARD).read_text().split("---\n")[1]
    assert yaml.safe_load(front)["base_model"] == name
    assert read_adapter(tmp_path / "adapter").base == name


def test_merging_leaves_the_adapter_in_place_and_unties_nothing(tiny_llama_folder):
    _, attached = attached_to(tiny_llama_folder, "llama")
    shake(attached)
    merged = attached.merged()
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    assert not any(p.requires_grad for p in merged.parameters())
    assert {type(m).__name__ for m in merged.modules()}.isdisjoint({"SquareLayer"})
    assert all(p.requires_grad for p in attached.parameters().values())
    assert merged.get_submodule(attached.targets()[0]) is not attached.model.get_submodule(attached.targets()[0])
    assert "labels" not in batch("llama")
