"""Methods of the peft library as adapters: what they promise, and what is said where one does not fit."""

import copy
import json

import peft.utils.save_and_load
import pytest
import torch
from peft import LoHaConfig, PeftModel, get_peft_model
from torch import nn

from fedtune.adapters.read import read_adapter
from fedtune.adapters.saved import CARD, CONFIG, WEIGHTS
from fedtune.adapters.shift import NO_SHIFT, Shift
from fedtune.errors import AdapterError
from fedtune.recipe import AdapterSection
from fedtune.state import digest
from fedtune.training.base import Assignment
from fedtune.training.evaluate import score_rows
from fedtune.training.loop import train_client
from tests.adapters.adapter_models import AUTO, FAMILIES, OPTIONS, attached_to, batch, load, logits, shake
from tests.training.parts import adapted_resident, answer_rows, text_rows

QUERIES = {"bert": "query,value", "llama": "q_proj,v_proj", "gpt2": "c_attn", "vit": "q_proj,v_proj"}
PROMPT = ("num_virtual_tokens=3",)
CASES = [
    ("ia3", "bert", ()),
    ("ia3", "gpt2", ()),
    ("loha", "llama", ("r=4", "alpha=8")),
    ("vera", "bert", ("r=8",)),
    ("vera", "gpt2", ("r=8",)),
    ("oft", "vit", (f"target_modules={QUERIES['vit']}", "oft_block_size=8", "r=0")),
    ("ln_tuning", "llama", ()),
    ("ln_tuning", "vit", ("target_modules=layernorm_before,layernorm_after",)),
    ("prompt_tuning", "bert", PROMPT),
    ("prompt_tuning", "gpt2", PROMPT),
    ("p_tuning", "bert", (*PROMPT, "encoder_hidden_size=16")),
    ("prefix_tuning", "llama", PROMPT),
    ("trainable-tokens", "llama", ("token_indices=5,6,7",)),
]
FOLDED = {"ia3", "loha", "vera", "oft", "ln_tuning", "trainable-tokens"}
every = pytest.mark.parametrize(("method", "family", "options"), CASES, ids=lambda value: str(value)[:20])


@pytest.fixture
def folder(request, family):
    return request.getfixturevalue(f"tiny_{family}_folder")


def make(folder, family, method, options, **section):
    return attached_to(
        folder, family, **{"kind": "peft", "init": "random", "peft_type": method, "peft_options": options} | section
    )


def loss_of(attached, family):
    labels = {"labels": batch(family)["input_ids"]} if family in ("llama", "gpt2") else {"labels": torch.tensor([0, 2])}
    return attached.model(**batch(family), **labels).loss


@every
def test_training_moves_exactly_the_named_tensors(folder, family, method, options):
    loaded, attached = make(folder, family, method, options)
    shake(attached, 0.05)
    own = {id(p) for p in attached.parameters().values()}
    parameters = dict(attached.model.named_parameters()) | dict(loaded.model.named_parameters())
    tensors = parameters | dict(attached.model.named_buffers())
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    loss_of(attached, family).backward()
    torch.optim.SGD(attached.parameters().values(), lr=100.0).step()  # some gradients are tiny
    moved = {id(tensor) for name, tensor in tensors.items() if not torch.equal(tensor, before[name])}
    assert moved == own
    assert {id(p) for p in parameters.values() if p.requires_grad} == own
    heads = {name.removeprefix("head.") for name in attached.parameters() if name.startswith("head.")}
    assert heads == {name for name, _ in loaded.model.named_parameters() if name.split(".")[0] in loaded.head}


@every
def test_the_base_model_is_as_it_was_and_its_outputs_keep_their_shape(folder, family, method, options):
    plain = load(folder, family)
    expected = logits(plain.model, family)
    loaded, attached = make(folder, family, method, options)
    kept = {tensor.data_ptr(): tensor for tensor in loaded.model.parameters()}
    assert logits(attached.model, family).shape == expected.shape
    found = sum(any(torch.equal(tensor, mine) for mine in kept.values()) for tensor in plain.model.parameters())
    assert found == len(list(plain.model.parameters()))
    if method in FOLDED:
        torch.testing.assert_close(logits(attached.model, family), expected, rtol=0, atol=1e-6)


@every
def test_states_are_read_loaded_and_refused(folder, family, method, options):
    _, attached = make(folder, family, method, options)
    start = attached.read()
    shake(attached, 0.05)
    state, trained = attached.read(), logits(attached.model, family)
    assert attached.shapes() == {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert not any("default" in name or "base_model" in name for name in state)
    assert (attached.slots, attached.scale, set(attached.axes().values())) == (0, 1.0, {()})
    assert attached.axes().keys() == state.keys()
    attached.load(start)
    assert not torch.equal(logits(attached.model, family), trained)
    attached.load(state)
    assert digest(attached.read()) == digest(state)
    assert torch.equal(logits(attached.model, family), trained)
    with pytest.raises(AdapterError, match="lacks"):
        attached.load({name: tensor for name, tensor in state.items() if name != min(state)})


@every
def test_every_machine_starts_alike_and_the_global_random_state_is_left_alone(folder, family, method, options):
    before = torch.get_rng_state()
    one, two = (make(folder, family, method, options)[1] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    three = make(folder, family, method, options)[1]
    for other in (two, three):
        assert digest(other.read()) == digest(one.read())
        assert digest(other.shared()) == digest(one.shared())
        assert other.sketch() == one.sketch()


@every
@pytest.mark.parametrize("head", [True, False])
def test_the_export_gives_the_same_logits_in_peft(folder, family, method, options, head, tmp_path, monkeypatch):
    monkeypatch.setattr(peft.utils.save_and_load, "check_file_exists_on_hf_hub", None)  # never asks the Hub
    _, attached = make(folder, family, method, options, head=head)
    shake(attached, 0.05)
    trained = logits(attached.model, family)
    attached.save(tmp_path / "adapter", base=str(folder))
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {CARD, CONFIG, WEIGHTS}
    plain = AUTO[FAMILIES[family]].from_pretrained(folder, **OPTIONS[family])
    found = logits(PeftModel.from_pretrained(plain, tmp_path / "adapter"), family)
    found = found[:, -trained.shape[1] :] if found.ndim == 3 else found  # PEFT shows the prompt's own outputs too
    assert (found - trained).abs().max() <= 1e-5
    assert torch.equal(logits(attached.model, family), trained)
    assert json.loads((tmp_path / "adapter" / CONFIG).read_text())["base_model_name_or_path"] == str(folder)
    with pytest.raises(AdapterError, match="is not about a plain LoRA adapter"):
        read_adapter(tmp_path / "adapter")


@every
def test_folding_in_gives_a_plain_model_or_one_sentence(folder, family, method, options, tmp_path):
    _, attached = make(folder, family, method, options)
    shake(attached, 0.05)
    trained = logits(attached.model, family)
    if method not in FOLDED:
        with pytest.raises(AdapterError, match=f'"{method}" cannot be folded'):
            attached.merged()
        return
    merged = attached.merged()
    assert (logits(merged, family) - trained).abs().max() <= 1e-5
    assert torch.equal(logits(attached.model, family), trained)
    assert not any(parameter.requires_grad for parameter in merged.parameters())
    merged.save_pretrained(tmp_path / "merged")
    again = AUTO[FAMILIES[family]].from_pretrained(tmp_path / "merged")
    assert (logits(again, family) - trained).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("options", "targets"),
    [((), "attention"), (("target_modules=dense,query",), "all-linear"), ((), ("layer.0.output.dense", "key"))],
)
def test_ia3_exports_whatever_modules_it_sits_on(tiny_bert_folder, tmp_path, options, targets):
    """Feed-forward layers scale their input; which ones those are follows from PEFT's defaults for the model."""
    _, attached = make(tiny_bert_folder, "bert", "ia3", options, targets=targets)
    shake(attached, 0.5)
    attached.save(tmp_path / "adapter", base="x")
    plain = AUTO["sequence-classification"].from_pretrained(tiny_bert_folder, **OPTIONS["bert"])
    found = PeftModel.from_pretrained(plain, tmp_path / "adapter")
    assert (logits(found, "bert") - logits(attached.model, "bert")).abs().max() <= 1e-5
    theirs = {name.removeprefix("base_model.model.") for name, m in found.named_modules() if hasattr(m, "ia3_l")}
    assert theirs == set(attached.targets())


def test_vera_shares_its_projections_and_ia3_shares_nothing(tiny_bert_folder):
    _, vera = make(tiny_bert_folder, "bert", "vera", ("r=8",))
    assert (vera.shared_origin, {name[-6:] for name in vera.shared()}) == ("recomputed", {"vera_A", "vera_B"})
    assert len(vera.shared()) == 2  # all layers of a size have the same
    _, other = make(tiny_bert_folder, "bert", "vera", ("r=8", "projection_prng_key=7"))
    assert max(abs(other.sketch()[name] - value) for name, value in vera.sketch().items()) > 1e-2
    other.load_shared(vera.shared())
    assert other.sketch() == vera.sketch()
    with pytest.raises(AdapterError, match="the set of frozen parts lacks"):
        other.load_shared({})
    _, ia3 = make(tiny_bert_folder, "bert", "ia3", ())
    assert (ia3.shared_origin, ia3.shared()) == ("none", {})


def test_it_has_no_product_no_shift_and_reads_no_gradients(tiny_bert_folder):
    _, attached = make(tiny_bert_folder, "bert", "ia3", ())
    with pytest.raises(AdapterError, match=r'set aggregation\.scheme = "mean"'):
        attached.products(attached.read())
    attached.shift_to(NO_SHIFT)
    with pytest.raises(AdapterError, match="no place for a change of the base weights"):
        attached.shift_to(Shift({"x.D": torch.zeros(1, 1)}, "key"))
    with pytest.raises(AdapterError, match="reads no gradients"):
        attached.initialise({})
    assert attached.target_shapes() == {}
    assert "bert.encoder.layer.0.attention.self.key" in attached.targets()


@pytest.mark.parametrize(
    ("method", "options", "task"),
    [
        ("ia3", (), "sequence-classification"),
        ("prompt_tuning", PROMPT, "sequence-classification"),
        ("ln_tuning", (), "causal-lm"),
        ("prompt_tuning", PROMPT, "causal-lm"),
        ("prefix_tuning", PROMPT, "causal-lm"),
    ],
)
def test_local_steps_learn_and_repeat_bit_for_bit(tiny_bert_folder, tiny_llama_folder, method, options, task):
    folder, rows = {
        "sequence-classification": (tiny_bert_folder, text_rows(12)),
        "causal-lm": (tiny_llama_folder, answer_rows(12)),
    }[task]
    section = AdapterSection(
        kind="peft", init="random", peft_type=method, peft_options=options, head=task != "causal-lm"
    )
    home = adapted_resident(folder, section, task, lr=0.03, epochs=8, batch_size=6)
    before = score_rows(home, home.initial, rows)
    share = Assignment("a", 1, home.initial, rows, seed=3)
    trained = train_client(home, share).state
    after = score_rows(home, trained, rows)
    assert after.loss < before.loss
    assert after.examples == before.examples > 0
    assert not any(torch.equal(tensor, home.initial[name]) for name, tensor in trained.items())
    again = adapted_resident(folder, section, task, lr=0.03, epochs=8, batch_size=6)
    assert digest(train_client(again, share).state) == digest(trained)


def test_a_prefix_is_refused_where_activations_are_recomputed(tiny_llama_folder):
    section = AdapterSection(kind="peft", init="random", peft_type="prefix_tuning", peft_options=PROMPT, head=False)
    home = adapted_resident(tiny_llama_folder, section, "causal-lm", gradient_checkpointing=True)
    with pytest.raises(AdapterError, match=r"set training\.gradient_checkpointing = false"):
        train_client(home, Assignment("a", 1, home.initial, answer_rows(4), seed=3))
    assert score_rows(home, home.initial, answer_rows(4)).examples > 0


def test_targets_stand_for_the_methods_own(tiny_bert_folder):
    _, attached = make(tiny_bert_folder, "bert", "loha", (), targets="attention")
    assert {name.rpartition(".")[2] for name in attached.targets()} == {"query", "value"}
    _, one = make(tiny_bert_folder, "bert", "loha", (), targets=("layer.1.attention.self.query",))
    assert one.targets() == ("bert.encoder.layer.1.attention.self.query",)
    _, named = make(tiny_bert_folder, "bert", "loha", ("target_modules=key",))
    assert {name.rpartition(".")[2] for name in named.targets()} == {"key"}


def test_all_linear_leaves_the_head_to_itself(tiny_bert_folder):
    loaded, attached = make(tiny_bert_folder, "bert", "loha", ("target_modules=all-linear",))
    assert type(loaded.model.classifier) is nn.Linear
    assert "classifier" not in attached.targets()
    assert len(attached.targets()) == 13


def test_the_names_are_pefts_own_without_its_prefixes(tiny_bert_folder):
    _, attached = make(tiny_bert_folder, "bert", "loha", ("r=4",))
    reference = get_peft_model(copy.deepcopy(load(tiny_bert_folder, "bert").model), LoHaConfig(r=4))
    theirs = {name for name, p in reference.named_parameters() if p.requires_grad}
    mine = {name for name in attached.parameters() if not name.startswith("head.")}
    assert mine == {name.removeprefix("base_model.model.").removesuffix(".default") for name in theirs}
