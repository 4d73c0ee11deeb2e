"""Head, body and tail together compute what the whole model does, and step nothing that is frozen."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedtune.adapters.attach import attach
from fedtune.models.base import LoadedModel
from fedtune.recipe import AdapterSection
from fedtune.split.cut import whole_name
from fedtune.split.parts import ClientParts
from tests.split.split_models import FAMILIES, LAYERS, Split, assert_close, base_of, batch, section, split, whole

CUTS = [(0, 0), (1, 1), (2, 0), (0, 3), (1, 2)]


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


class TestForward:
    @pytest.mark.parametrize("family", FAMILIES)
    @given(
        cut=st.sampled_from(CUTS),
        rows=st.integers(1, 4),
        length=st.integers(2, 12),
        seed=st.integers(0, 99),
    )
    @settings(max_examples=15)
    def test_is_that_of_the_whole(self, family: str, cut: tuple[int, int], rows: int, length: int, seed: int) -> None:
        inputs = batch(family, rows=rows, length=length, seed=seed)
        with torch.no_grad():
            expected = whole(family).model(**inputs)
            output = split(family, *cut).forward(inputs)
        assert_close(output.logits, expected.logits)
        assert_close(output.loss, expected.loss)

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("cut", CUTS)
    def test_has_the_wholes_activations_at_both_cuts(self, family: str, cut: tuple[int, int]) -> None:
        inputs, parts = batch(family), split(family, *cut)
        seen: list[torch.Tensor] = []
        layers = parts.parts.family.layers_of(base_of(model := whole(family, fresh=True).model))[1]
        for layer in layers:
            layer.register_forward_pre_hook(
                lambda _m, args, kwargs: seen.append([*args, *kwargs.values()][0]), with_kwargs=True
            )
        layers[-1].register_forward_hook(lambda _m, _args, output: seen.append(output))
        with torch.no_grad():
            model(**inputs)
            smashed = parts.parts.head(inputs)
            output = parts.body(smashed.hidden, smashed.mask)
        assert_close(smashed.hidden, seen[cut[0]])
        assert_close(output, seen[LAYERS - cut[1]])

    @pytest.mark.parametrize("family", FAMILIES)
    def test_needs_no_mask_where_nothing_is_padded(self, family: str) -> None:
        inputs = batch(family)
        inputs.pop("attention_mask", None)
        with torch.no_grad():
            assert_close(split(family).forward(inputs).loss, whole(family).model(**inputs).loss)

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("cut", CUTS)
    def test_without_the_body_is_the_short_circuit(self, family: str, cut: tuple[int, int]) -> None:
        inputs, parts = batch(family), split(family, *cut)
        by_hand = shortened_by_hand(family, cut)
        by_hand.config.use_cache = False  # its layers still have the numbers of the whole
        with torch.no_grad():
            short, expected = parts.parts.short(**inputs, use_cache=False), by_hand(**inputs)
        assert_close(short.logits, expected.logits)
        assert_close(short.loss, expected.loss)
        assert_close(parts.client.model(**inputs).logits, expected.logits)

    def test_predicts_without_labels(self) -> None:
        inputs = batch("bert")
        del inputs["labels"]
        assert split("bert").forward(inputs).loss is None


def shortened_by_hand(family: str, cut: tuple[int, int]) -> nn.Module:
    """The whole model with the body's layers deleted from it."""
    model = whole(family, fresh=True).model
    layers = split(family).parts.family.layers_of(base_of(model))[1]
    del layers[cut[0] : LAYERS - cut[1]]
    if hasattr(model.config, "layer_types"):
        model.config.layer_types = model.config.layer_types[: len(layers)]
    model.config.num_hidden_layers = len(layers)
    return model


class TestBackward:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("cut", CUTS)
    def test_gives_every_weight_the_wholes_gradient(self, family: str, cut: tuple[int, int]) -> None:
        model, parts, inputs = whole(family, fresh=True).model, split(family, *cut, fresh=True), batch(family)
        for module in (model, parts.client.model, parts.body):
            module.requires_grad_(True)
        model(**inputs).loss.backward()
        parts.backward(inputs)
        expected = gradients(model)
        found = {whole_name(name, parts.body.cut): g for name, g in gradients(parts.client.model).items()}
        prefix = f"{model.base_model_prefix}."
        for name, gradient in gradients(parts.body.model).items():
            found[prefix + _of_body(name, parts)] = gradient
        assert set(found) == set(expected)
        for name, gradient in found.items():
            assert_close(gradient, expected[name])

    @pytest.mark.parametrize("family", FAMILIES)
    def test_reaches_an_adapter_in_head_and_tail(self, family: str) -> None:
        reference, parts, inputs = whole(family, fresh=True), split(family, fresh=True), batch(family)
        wanted = _adapted(reference, family)
        found = _adapted(parts.client, family)
        adapted = ClientParts.of(parts.client.model, parts.body.cut, section(family).task)
        for name, parameter in found.items():
            twin = whole_name(name, parts.body.cut)
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)) / 4)
                wanted[twin].copy_(parameter)
        reference.model(**inputs).loss.backward()
        loss = Split(parts.client, parts.body, adapted, None).backward(inputs)
        assert_close(loss, reference.model(**inputs).loss.detach())
        assert any("lora_A" in name and found[name].grad.abs().max() > 0 for name in found)
        for name, parameter in found.items():
            assert_close(parameter.grad, wanted[whole_name(name, parts.body.cut)].grad)

    @pytest.mark.parametrize("family", ["vit", "gpt2"])
    def test_and_a_step_leave_what_is_frozen_bit_for_bit(self, family: str) -> None:
        parts = split(family, fresh=True, prompt_tokens=2)
        before_cut = parts.parts.before_cut()
        trained = [p for name, p in parts.client.model.named_parameters() if name not in before_cut]
        frozen = {name: p.detach().clone() for name, p in parts.client.model.named_parameters() if name in before_cut}
        body = {name: tensor.clone() for name, tensor in parts.body.state_dict().items()}
        for parameter in trained:
            parameter.requires_grad_(True)
        optimizer = torch.optim.SGD([*trained, *parts.prompts.parameters()], lr=0.5)
        old = [p.detach().clone() for p in (*trained, parts.prompts.input)]
        parts.backward(batch(family))
        optimizer.step()
        assert all(not torch.equal(a, b) for a, b in zip(old, (*trained, parts.prompts.input), strict=True))
        now = dict(parts.client.model.named_parameters())
        assert frozen
        assert all(torch.equal(now[name], tensor) for name, tensor in frozen.items())
        assert all(torch.equal(parts.body.state_dict()[name], tensor) for name, tensor in body.items())


def _of_body(name: str, parts: Split) -> str:
    from fedtune.split.cut import renumbered

    return str(renumbered(name, dict(enumerate(parts.body.cut.body_layers()))))


def _adapted(loaded: LoadedModel, family: str) -> dict[str, nn.Parameter]:
    section_ = AdapterSection(kind="lora", init="kaiming", rank=2, targets="attention", head=False)
    return attach(loaded, section_, task=FAMILIES[family][1]).parameters()


def test_views_are_of_the_same_parameters() -> None:
    parts, inputs = split("bert", fresh=True), batch("bert")
    before = parts.forward(inputs).loss
    with torch.no_grad():
        parts.client.model.bert.encoder.layer[0].output.dense.weight.mul_(2)
    assert float(parts.forward(inputs).loss) != float(before)


def test_a_tied_embedding_is_before_the_cut() -> None:
    assert "transformer.wte.weight" in split("gpt2").parts.before_cut()
    assert "lm_head.weight" not in split("qwen2").parts.before_cut()
