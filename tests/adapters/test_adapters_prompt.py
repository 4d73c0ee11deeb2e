"""Prompt tuning against PEFT's own, prompts of images against a plain computation; starts, export and refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PromptTuningConfig, get_peft_model
from torch.nn.functional import cross_entropy

from fedtune.adapters.attach import attach
from fedtune.adapters.prompt import PROMPT
from fedtune.adapters.saved import TASK_TYPES
from fedtune.adapters.shift import NO_SHIFT, Shift
from fedtune.errors import AdapterError, ModelError
from fedtune.recipe import AdapterSection, ModelSection, Recipe, TrainingSection
from fedtune.split.exported import load_exported
from fedtune.state import digest
from fedtune.training.resident import Resident
from tests.adapters.adapter_models import attached_to, load, logits, shake
from tests.split.split_models import FAMILIES, LAYERS, WIDTH, batch, whole

TOKENS = 4
TEXTS = ("bert", "roberta", "distilbert", "llama", "qwen3", "gpt2")


def prompted(family: str, **section: Any) -> Any:
    """A model of the family with a trained prompt far from zero, and the same model without one."""
    loaded = whole(family, fresh=True)
    fields = {"kind": "prompt", "init": "random", "prompt_tokens": TOKENS, **section}
    attached = attach(loaded, AdapterSection.model_validate(fields), task=FAMILIES[family][1])
    shake(attached)
    return attached, whole(family, fresh=True).model


@pytest.mark.parametrize("family", TEXTS)
def test_logits_and_gradients_of_texts_are_those_of_peft(family: str) -> None:
    """Rows of different lengths; heads and their gradients too."""
    attached, plain = prompted(family)
    config = PromptTuningConfig(
        task_type=TASK_TYPES[FAMILIES[family][1]],
        num_virtual_tokens=TOKENS,
        token_dim=WIDTH,
        num_layers=LAYERS,
        num_attention_heads=2,
    )
    theirs: Any = get_peft_model(plain, config).eval()
    parameters = {PROMPT: theirs.prompt_encoder["default"].embedding.weight}
    for name in attached.parameters().keys() - {PROMPT}:
        module, _, last = name.removeprefix("head.").rpartition(".")
        found = plain.get_submodule(module.split(".")[0])
        inside = ".".join([*module.split(".")[1:], last])
        parameters[name] = found.modules_to_save["default"].get_parameter(inside)
    state = attached.read()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])
    rows = batch(family, seed=1)
    ours, other = attached.model(**rows), theirs(**rows)
    given = slice(TOKENS, None) if FAMILIES[family][1] == "causal-lm" else slice(None)
    torch.testing.assert_close(ours.logits, other.logits[:, given], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.loss, other.loss, atol=1e-5, rtol=0)
    own = torch.autograd.grad(ours.loss, [attached.parameters()[name] for name in parameters])
    for name, one, two in zip(parameters, own, torch.autograd.grad(other.loss, list(parameters.values())), strict=True):
        assert two.abs().max() > 1e-4, name
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("family", ["vit", "dinov2"])
def test_images_have_their_prompt_behind_the_class_token_without_a_position(family: str) -> None:
    attached, plain = prompted(family)
    vectors = attached.read()[PROMPT].requires_grad_(True)
    rows = batch(family, seed=1)
    base = plain.get_submodule(family)
    hidden = base.embeddings(rows["pixel_values"])  # positions are in
    hidden = torch.cat((hidden[:, :1], vectors.expand(len(hidden), -1, -1), hidden[:, 1:]), dim=1)
    for layer in base.layers if family == "vit" else base.encoder.layer:
        hidden = layer(hidden)
    hidden = base.layernorm(hidden)
    read = [hidden[:, 0], *([hidden[:, 1 + TOKENS :].mean(dim=1)] if family == "dinov2" else [])]
    head = attached.model.classifier
    expected = torch.cat(read, dim=1) @ head.weight.T + head.bias
    ours = attached.model(**rows)
    torch.testing.assert_close(ours.logits, expected, atol=1e-5, rtol=0)
    (gradient,) = torch.autograd.grad(cross_entropy(expected, rows["labels"]), [vectors])
    (own,) = torch.autograd.grad(ours.loss, [attached.parameters()[PROMPT]])
    assert gradient.abs().max() > 1e-4
    torch.testing.assert_close(own, gradient, atol=1e-5, rtol=1e-5)


def test_kinds_of_tokens_are_those_of_the_rows_with_the_first_kind_before_them() -> None:
    """The rows' own token types count: a row of the second kind is another row."""
    attached, _ = prompted("bert")
    rows = {name: tensor for name, tensor in batch("bert").items() if name != "labels"}
    zeros = torch.zeros_like(rows["input_ids"])
    same = attached.model(**rows, token_type_ids=zeros).logits
    assert torch.equal(attached.model(**rows).logits, same)
    assert torch.equal(attached.model(rows["input_ids"], rows["attention_mask"]).logits, same)
    assert not torch.allclose(attached.model(**rows, token_type_ids=zeros + 1).logits, same)


def start(family: str, **section: Any) -> torch.Tensor:
    loaded = whole(family, fresh=True)
    fields = {"kind": "prompt", "init": "random", "prompt_tokens": 200, **section}
    found = attach(loaded, AdapterSection.model_validate(fields), task=FAMILIES[family][1]).read()[PROMPT]
    assert found.shape == (200, WIDTH)
    return found


def test_a_prompt_starts_like_what_it_stands_among() -> None:
    words = whole("bert").model.get_input_embeddings().weight.detach()
    drawn = start("bert")
    assert float(drawn.std()) == pytest.approx(float(words.std()), rel=0.05)
    assert abs(float(drawn.mean())) < 0.05 * float(words.std())
    sampled = start("bert", init="weights")
    assert bool((sampled[:, None] == words).all(dim=2).any(dim=1).all())
    assert len(sampled.unique(dim=0)) > len(words) // 2
    uniform, bound = start("vit"), (6 / (3 * 8 * 8 + WIDTH)) ** 0.5
    assert 0.95 * bound < float(uniform.abs().max()) <= bound
    with pytest.raises(AdapterError, match='set init to "random"'):
        start("vit", init="weights")


@pytest.mark.parametrize("init", ["random", "weights"])
def test_everybody_starts_alike_and_the_seed_decides(init: str) -> None:
    one, same, other = (start("llama", init=init, seed=seed) for seed in (0, 0, 1))
    assert digest({"p": one}) == digest({"p": same}) != digest({"p": other})


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_the_export_gives_the_same_logits_in_peft(family: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue(f"tiny_{family}_folder")
    _, attached = attached_to(folder, family, kind="prompt", init="random", prompt_tokens=TOKENS)
    shake(attached)
    attached.save(tmp_path / "adapter", str(folder))
    loaded = PeftModel.from_pretrained(load(folder, family).model, str(tmp_path / "adapter"))
    given = slice(TOKENS, None) if family != "bert" else slice(None)
    assert (logits(loaded, family)[:, given] - logits(attached.model, family)).abs().max() <= 1e-5


def test_the_export_of_images_gives_the_same_logits(tiny_vit_folder: Path, tmp_path: Path) -> None:
    _, attached = attached_to(tiny_vit_folder, "vit", kind="prompt", init="random", prompt_tokens=TOKENS)
    shake(attached)
    attached.save(tmp_path / "adapter", str(tiny_vit_folder))
    loaded = load_exported(tmp_path / "adapter")
    assert (logits(loaded, "vit") - logits(attached.model, "vit")).abs().max() <= 1e-5


def test_what_it_is_not_is_said_and_nothing_else_is_trained() -> None:
    attached, _ = prompted("bert", head=False)
    assert list(attached.parameters()) == [PROMPT]
    assert [name for name, p in attached.model.named_parameters() if p.requires_grad] == [PROMPT]
    assert (attached.slots, attached.axes(), attached.targets(), attached.shared()) == (0, {PROMPT: ()}, (), {})
    attached.shift_to(NO_SHIFT)
    attached.load_shared({})
    with pytest.raises(AdapterError, match="adds no product"):
        attached.products(attached.read())
    with pytest.raises(AdapterError, match="no place for a change"):
        attached.shift_to(Shift({"x.D": torch.zeros(1, 1)}, "key"))
    with pytest.raises(AdapterError, match="no weight can take them up"):
        attached.merged()
    with pytest.raises(AdapterError, match="reads no gradients"):
        attached.initialise({})
    with pytest.raises(AdapterError, match="has no frozen factors"):
        attached.load_shared({"x": torch.zeros(1)})


def test_a_second_adapter_and_a_cache_are_refused() -> None:
    attached, _ = prompted("llama")
    loaded = attached._loaded
    for kind, init in (("prompt", "random"), ("lora", "kaiming")):
        with pytest.raises(AdapterError, match="carries a soft prompt already"):
            attach(loaded, AdapterSection.model_validate({"kind": kind, "init": init}), task="causal-lm")
    rows = {name: tensor for name, tensor in batch("llama").items() if name == "input_ids"}
    with pytest.raises(AdapterError, match="without a cache"):
        attached.model(**rows, position_ids=torch.arange(7)[None])


def test_a_task_that_the_family_is_not_known_for_is_refused_and_nothing_is_changed() -> None:
    loaded = whole("bert", fresh=True)
    modules = [name for name, _ in loaded.model.named_modules()]
    with pytest.raises(AdapterError, match="of a bert model for causal-lm are; set kind"):
        attach(loaded, AdapterSection(kind="prompt", init="random"), task="causal-lm")
    assert [name for name, _ in loaded.model.named_modules()] == modules


def test_texts_leave_room_for_the_prompt(tiny_bert_folder: Path) -> None:
    def build(tokens: int) -> Resident:
        model = ModelSection(name=str(tiny_bert_folder), labels=("a", "b"), max_length=120)
        adapter = AdapterSection(kind="prompt", init="random", prompt_tokens=tokens)
        return Resident.build(Recipe(model=model, adapter=adapter, training=TrainingSection(device="cpu")))

    assert build(8).attached.shapes()[PROMPT] == (8, 32)
    with pytest.raises(ModelError, match="must become 119 or less"):
        build(9)


def test_loading_what_was_read_changes_nothing() -> None:
    attached, _ = prompted("gpt2")
    before = digest(dict(attached.model.state_dict()))
    attached.load(attached.read())
    assert digest(dict(attached.model.state_dict())) == before
