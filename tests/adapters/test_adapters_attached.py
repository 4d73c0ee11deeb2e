"""What every adapter promises: base weights stay, only its tensors train, it starts as the base, it exports whole."""

import pytest
import torch
from peft import PeftModel

from fedtune.errors import AdapterError
from fedtune.state import digest
from tests.adapters.adapter_models import AUTO, FAMILIES, KINDS, OPTIONS, attached_to, batch, load, logits, shake

every = pytest.mark.parametrize(("family", "kind"), [(f, k) for f in FAMILIES for k in KINDS])


@pytest.fixture
def folder(request, family):
    return request.getfixturevalue(f"tiny_{family}_folder")


@every
def test_it_starts_as_the_base_model(folder, family, kind):
    plain = logits(load(folder, family).model, family)
    _, attached = attached_to(folder, family, **KINDS[kind])
    assert torch.equal(logits(attached.model, family), plain)


@every
def test_training_moves_exactly_the_named_tensors(folder, family, kind):
    loaded, attached = attached_to(folder, family, **KINDS[kind])
    shake(attached)
    own = {id(p) for p in attached.parameters().values()}
    before = {name: p.detach().clone() for name, p in loaded.model.named_parameters()}
    buffers = {name: b.detach().clone() for name, b in loaded.model.named_buffers()}
    logit = loaded.model(**batch(family)).logits
    logit.square().mean().backward()
    torch.optim.SGD(attached.parameters().values(), lr=0.1).step()
    moved = {id(p) for n, p in loaded.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == own
    assert {id(p) for p in loaded.model.parameters() if p.requires_grad} == own
    assert all(torch.equal(b, buffers[n]) for n, b in loaded.model.named_buffers())


@every
def test_load_of_read_changes_nothing_and_foreign_states_are_refused(folder, family, kind):
    _, attached = attached_to(folder, family, **KINDS[kind])
    shake(attached)
    state = attached.read()
    before = digest(state)
    attached.load(state)
    assert digest(attached.read()) == before
    first = next(iter(state))
    with pytest.raises(AdapterError, match="lacks"):
        attached.load({n: t for n, t in state.items() if n != first})
    with pytest.raises(AdapterError, match="shape"):
        attached.load({**state, first: torch.zeros(1, 1)})


@every
@pytest.mark.parametrize("head", [True, False])
def test_the_export_gives_the_same_logits_in_peft_and_merged(folder, family, kind, head, tmp_path):
    _, attached = attached_to(folder, family, head=head, **KINDS[kind])
    shake(attached)
    trained = logits(attached.model, family)
    attached.save(tmp_path / "adapter", base=str(folder))
    merged = attached.merged()
    assert (logits(merged, family) - trained).abs().max() <= 1e-5
    assert torch.equal(logits(attached.model, family), trained)
    auto = AUTO[FAMILIES[family]]
    fresh = PeftModel.from_pretrained(auto.from_pretrained(folder, **OPTIONS[family]), tmp_path / "adapter")
    assert (logits(fresh, family) - trained).abs().max() <= 1e-5
    merged.save_pretrained(tmp_path / "merged")
    assert (logits(auto.from_pretrained(tmp_path / "merged"), family) - trained).abs().max() <= 1e-5


@every
def test_saving_twice_replaces_the_first(folder, family, kind, tmp_path):
    _, attached = attached_to(folder, family, **KINDS[kind])
    for _ in range(2):
        attached.save(tmp_path / "adapter", base="x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_bf16_base_keeps_an_fp32_adapter(tiny_bert_folder, kind):
    from fedtune.adapters.attach import attach
    from fedtune.recipe import AdapterSection

    loaded = load(tiny_bert_folder, "bert")
    loaded.model.to(torch.bfloat16)
    attached = attach(loaded, AdapterSection(rank=4, head=False, **KINDS[kind]), task="sequence-classification")
    assert {p.dtype for p in attached.parameters().values()} == {torch.float32}
    assert logits(attached.model, "bert").dtype == torch.bfloat16


def test_targets_by_name_by_family_and_by_mistake(tiny_bert_folder, tiny_gpt2_folder):
    _, attention = attached_to(tiny_bert_folder, "bert", targets="attention")
    assert {t.rpartition(".")[2] for t in attention.targets()} == {"query", "value"}
    _, fused = attached_to(tiny_gpt2_folder, "gpt2", targets="attention")
    assert {t.rpartition(".")[2] for t in fused.targets()} == {"c_attn"}
    _, every_linear = attached_to(tiny_gpt2_folder, "gpt2", targets="all-linear")
    assert not any("lm_head" in t for t in every_linear.targets())
    _, named = attached_to(tiny_bert_folder, "bert", targets=("self.query", "intermediate.dense"))
    assert len(named.targets()) == 4
    with pytest.raises(AdapterError, match='did you mean "query"'):
        attached_to(tiny_bert_folder, "bert", targets=("querry",))


def test_a_rank_that_is_too_large_is_refused(tiny_bert_folder):
    with pytest.raises(AdapterError, match=r"adapter\.rank = 999 is more than"):
        attached_to(tiny_bert_folder, "bert", rank=999)


@pytest.mark.parametrize(("kind", "init"), [("lora", "weights"), ("square", "kaiming")])
def test_an_initialisation_of_the_other_kind_is_refused(tiny_bert_folder, kind, init):
    with pytest.raises(AdapterError, match=f'cannot start from adapter.init = "{init}"'):
        attached_to(tiny_bert_folder, "bert", kind=kind, init=init)


def test_lora_gives_layers_of_one_shape_different_draws_and_every_client_the_same(tiny_bert_folder):
    states = [attached_to(tiny_bert_folder, "bert", kind="lora", init="kaiming", seed=s)[1].read() for s in (1, 1, 2)]
    assert digest(states[0]) == digest(states[1]) != digest(states[2])
    drawn = [t for n, t in states[0].items() if n.endswith("query.lora_A")]
    assert len(drawn) == 2
    assert not torch.equal(drawn[0], drawn[1])
    assert all(not t.any() for n, t in states[0].items() if n.endswith("lora_B"))
