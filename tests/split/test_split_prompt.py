"""Soft prompts: how they start, where they stand, and what PEFT and a loop over the layers make of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtune.recipe.split import SplitSection
from fedtune.split.prompt import Prompts, extend_mask, insert, overwrite, remove
from tests.split.split_loop import by_loop
from tests.split.split_models import FAMILIES, assert_close, batch, split, whole


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
