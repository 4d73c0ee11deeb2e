"""Soft prompts: how they start, where they stand, and what PEFT and a loop over the layers make of them."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedtune.recipe.split import SplitSection
from fedtune.split.prompt import Prompts, extend_mask, insert, overwrite, remove
from tests.split.split_models import FAMILIES, Split, base_of, batch, split, whole


def assert_close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-5 * max(1.0, float(other.abs().max())), rtol=0.0)


class TestStart:
    SECTION = SplitSection(head_layers=2, tail_layers=2, prompt_tokens=5, deep_prompts=True)

    def test_is_the_same_for_a_seed_and_leaves_the_random_state_alone(self) -> None:
        state = torch.get_rng_state()
        one, same, other = (Prompts.of(self.SECTION, 64, 4, seed) for seed in (7, 7, 8))
        assert torch.equal(torch.get_rng_state(), state)
        for (name, a), b, c in zip(one.named_parameters(), same.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b), name
            assert not torch.equal(a, c), name

    def test_is_uniform_within_a_tenth_and_differs_from_layer_to_layer(self) -> None:
        prompts = Prompts.of(self.SECTION, 64, 4, 7)
        flat = torch.cat([p.detach().flatten() for p in prompts.parameters()])
        assert flat.abs().max() <= 0.1
        assert flat.min() < -0.09
        assert flat.max() > 0.09
        assert abs(float(flat.std()) - 0.1 / 3**0.5) < 0.005
        assert len({float(p.detach().sum()) for p in prompts.parameters()}) == 4

    @pytest.mark.parametrize(
        ("place", "head", "names"),
        [
            ("input", 2, ["input", "layer.1", "layer.2", "layer.3"]),
            ("cut", 2, ["input", "layer.3"]),
            ("cut", 0, ["input", "layer.1", "layer.2", "layer.3"]),
            ("cut", 4, ["input"]),
        ],
    )
    def test_has_vectors_of_their_own_for_the_layers_behind_the_first(
        self, place: str, head: int, names: list[str]
    ) -> None:
        section = SplitSection(head_layers=head, tail_layers=4 - head, prompt_tokens=5, deep_prompts=True)
        prompts = Prompts.of(section.model_copy(update={"prompt_at": place}), 8, 4, 0)
        assert [name for name, _ in prompts.named_parameters()] == names

    def test_is_shallow_or_nothing_unless_asked_for(self) -> None:
        assert Prompts.of(SplitSection(head_layers=1), 8, 4, 0) is None
        shallow = Prompts.of(SplitSection(head_layers=1, prompt_tokens=2), 8, 4, 0)
        assert {name: tuple(p.shape) for name, p in shallow.named_parameters()} == {"input": (2, 8)}


class TestPlace:
    @given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.data())
    def test_is_taken_out_as_it_was_put_in(self, rows: int, length: int, tokens: int, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, length))
        hidden, vectors = torch.randn(rows, length, 3), torch.randn(tokens, 3)
        longer = insert(hidden, vectors, at)
        assert longer.shape == (rows, length + tokens, 3)
        assert torch.equal(remove(longer, tokens, at), hidden)
        assert torch.equal(longer[:, at : at + tokens], vectors.expand(rows, -1, -1))
        assert torch.equal(overwrite(longer, vectors + 1, at), insert(hidden, vectors + 1, at))

    def test_is_there_in_the_mask(self) -> None:
        mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
        assert extend_mask(mask, 2, 1).tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]
        assert extend_mask(None, 2, 1) is None

    def test_takes_the_dtype_of_the_tokens(self) -> None:
        assert insert(torch.zeros(1, 2, 3, dtype=torch.bfloat16), torch.zeros(1, 3), 0).dtype == torch.bfloat16


PLACES = [("input", False), ("cut", False), ("input", True), ("cut", True)]


class TestModels:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize(("place", "deep"), PLACES)
    @pytest.mark.parametrize("cut", [(0, 1), (2, 1), (1, 0)])
    def test_compute_what_a_loop_over_the_layers_does(
        self, family: str, place: str, deep: bool, cut: tuple[int, int]
    ) -> None:
        parts = split(family, *cut, prompt_tokens=2, prompt_at=place, deep_prompts=deep)
        for parameter in parts.prompts.parameters():
            parameter.data.mul_(20)
        model, inputs = whole(family).model, batch(family)
        loss, logits = by_loop(model, parts, inputs)
        wanted = torch.autograd.grad(loss, list(parts.prompts.parameters()))
        output = parts.forward(inputs)
        assert_close(output.logits.detach(), logits.detach())
        assert_close(parts.backward(inputs), loss.detach())
        for (name, parameter), gradient in zip(parts.prompts.named_parameters(), wanted, strict=True):
            assert gradient.abs().max() > 0, name
            assert_close(parameter.grad, gradient)

    @pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
    @given(seed=st.integers(0, 99), length=st.integers(3, 9))
    @settings(max_examples=5)
    def test_compute_what_peft_does(self, family: str, seed: int, length: int) -> None:
        from peft import PromptTuningConfig, get_peft_model

        parts = split(family, 1, 1, prompt_tokens=4)
        model = get_peft_model(
            whole(family, fresh=True).model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
        )
        embedding = model.prompt_encoder["default"].embedding.weight
        with torch.no_grad():
            embedding.copy_(parts.prompts.input)
        inputs = batch(family, length=length, seed=seed)
        expected = model(**inputs)
        expected.loss.backward()
        assert_close(parts.forward(inputs).logits.detach(), expected.logits[:, 4:].detach())
        assert_close(parts.backward(inputs), expected.loss.detach())
        assert_close(parts.prompts.input.grad, embedding.grad)

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize(("place", "deep"), PLACES)
    def test_can_be_short_circuited(self, family: str, place: str, deep: bool) -> None:
        """As if the body were not there: the loop over the client's layers alone."""
        parts, inputs = split(family, 1, 1, prompt_tokens=2, prompt_at=place, deep_prompts=deep), batch(family)
        loss, logits = by_loop(whole(family).model, parts, inputs, body=False)
        output = parts.parts.short(**inputs)
        assert_close(output.logits.detach(), logits.detach())
        assert_close(output.loss.detach(), loss.detach())

    def test_need_no_mask(self) -> None:
        parts, inputs = split("llama", 1, 1, prompt_tokens=2), batch("llama")
        del inputs["attention_mask"]
        assert_close(parts.forward(inputs).loss.detach(), by_loop(whole("llama").model, parts, inputs)[0].detach())


def by_loop(
    model: Any, parts: Split, inputs: dict[str, torch.Tensor], *, body: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and logits of the whole model with the prompts, layer by layer, with masks made by hand."""
    family, cut, prompts = parts.parts.family, parts.body.cut, parts.prompts
    causal = family.task == "causal-lm"
    base, at = base_of(model), 0 if causal else 1
    mask = inputs.get("attention_mask")
    hidden = _embedded(base, inputs)
    if family.name == "gpt2" and prompts.at_cut:
        hidden = hidden + base.wpe.weight[: hidden.shape[1]]
    client = 0
    for number, layer in enumerate(family.layers_of(base)[1]):
        mine = number in cut.client_layers()
        if (number == 0 and not prompts.at_cut) or (number == cut.head and prompts.at_cut):
            hidden, mask = _put_in(hidden, mask, prompts, at)
            if family.name == "gpt2" and not prompts.at_cut:
                hidden = hidden + base.wpe.weight[: hidden.shape[1]]
        if mine and prompts.deep(client) is not None:
            own = prompts.deep(client).expand(hidden.shape[0], -1, -1)
            hidden = torch.cat((hidden[:, :at], own, hidden[:, at + prompts.tokens :]), 1)
        if mine or body:
            hidden = _layer(base, layer, hidden, mask, causal=causal)
        client += mine
    hidden = torch.cat((hidden[:, :at], hidden[:, at + prompts.tokens :]), 1)
    if family.norm:
        hidden = base.get_submodule(family.norm)(hidden)
    logits = _logits(model, family.name, hidden)
    labels = inputs["labels"]
    if not causal:
        return nn.functional.cross_entropy(logits, labels), logits
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()), logits


def _embedded(base: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    name = next(name for name in ("embeddings", "wte", "embed_tokens") if hasattr(base, name))
    hidden: torch.Tensor = base.get_submodule(name)(next(iter(inputs.values())))
    return hidden


def _put_in(
    hidden: torch.Tensor, mask: torch.Tensor | None, prompts: Prompts, at: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    rows = prompts.input.expand(hidden.shape[0], -1, -1)
    hidden = torch.cat((hidden[:, :at], rows, hidden[:, at:]), 1)
    if mask is not None:
        mask = torch.cat((torch.ones(mask.shape[0], prompts.tokens, dtype=mask.dtype), mask), 1)  # ones first: texts
    return hidden, mask


def _layer(
    base: Any, layer: nn.Module, hidden: torch.Tensor, mask: torch.Tensor | None, *, causal: bool
) -> torch.Tensor:
    length = hidden.shape[1]
    allowed = torch.ones(hidden.shape[0], 1, length, length, dtype=torch.bool)
    if mask is not None:
        allowed &= mask[:, None, None, :].bool()
    if causal:
        allowed &= torch.ones(length, length, dtype=torch.bool).tril()
    bias = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    more: dict[str, Any] = {}
    if hasattr(base, "rotary_emb"):
        more["position_embeddings"] = base.rotary_emb(hidden, torch.arange(length)[None])
    output: torch.Tensor = layer(hidden, attention_mask=bias, **more)
    return output


def _logits(model: Any, family: str, hidden: torch.Tensor) -> torch.Tensor:
    if family == "dinov2":
        logits: torch.Tensor = model.classifier(torch.cat((hidden[:, 0], hidden[:, 1:].mean(1)), 1))
    elif family == "vit":
        logits = model.classifier(hidden[:, 0])
    elif family == "bert":
        logits = model.classifier(model.bert.pooler(hidden))
    elif family == "roberta":
        logits = model.classifier(hidden)
    elif family == "distilbert":
        logits = model.classifier(torch.relu(model.pre_classifier(hidden[:, 0])))
    else:
        logits = model.lm_head(hidden)
    return logits
