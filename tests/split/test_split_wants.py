"""Which tokens' share crosses the cuts, and that it is enough."""

from typing import Any

import pytest

from fedtune.split.base import Smashed, Wants
from tests.split.split_models import FAMILIES, assert_close, batch, split


class TestWants:
    @pytest.mark.parametrize(
        ("family", "tail", "output"),
        [
            ("vit", 0, slice(0, 1)),
            ("bert", 0, slice(0, 1)),
            ("dinov2", 0, slice(None)),
            ("llama", 0, slice(3, None)),
            ("bert", 1, slice(None)),
            ("llama", 1, slice(None)),
        ],
    )
    def test_of_the_output_what_the_tail_reads(self, family: str, tail: int, output: slice) -> None:
        assert split(family, 1, tail, prompt_tokens=3).parts.wants().output == output

    @pytest.mark.parametrize(
        ("head", "prompt", "train", "gradient"),
        [
            (1, {}, {}, None),
            (1, {}, {"train_head": True}, slice(None)),
            (1, {"prompt_tokens": 3}, {}, slice(None)),
            (1, {"prompt_tokens": 3}, {"train_prompt": False}, None),
            (0, {"prompt_tokens": 3}, {}, slice(1, 4)),
            (1, {"prompt_tokens": 3, "prompt_at": "cut"}, {}, slice(1, 4)),
            (1, {"prompt_tokens": 3, "prompt_at": "cut"}, {"train_head": True}, slice(None)),
        ],
    )
    def test_of_the_gradient_what_is_trained_before_the_cut(
        self, head: int, prompt: dict[str, Any], train: dict[str, bool], gradient: slice | None
    ) -> None:
        assert split("bert", head, 1, **prompt).parts.wants(**train).gradient == gradient

    def test_what_requires_gradients_unless_told(self) -> None:
        parts = split("bert", fresh=True)
        assert parts.parts.wants() == Wants(slice(None), None)
        parts.client.model.bert.encoder.layer[1].requires_grad_(True)
        assert parts.parts.wants().gradient is None
        parts.client.model.bert.encoder.layer[0].requires_grad_(True)
        assert parts.parts.wants().gradient == slice(None)

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("head", [0, 1])
    def test_are_enough(self, family: str, head: int) -> None:
        """With the share alone the loss and the prompt's gradient are those of one graph."""
        place = {"prompt_tokens": 2, "prompt_at": "cut" if head else "input"}
        parts, inputs = split(family, head, 0, **place), batch(family)
        loss = parts.backward(inputs)
        shared = parts.prompts.input.grad.clone()
        parts.prompts.input.grad = None
        smashed = parts.parts.head(inputs)
        output = parts.body(smashed.hidden, smashed.mask)
        expected = parts.parts.tail(Smashed(output, smashed.mask), inputs).loss
        expected.backward()
        assert_close(loss, expected.detach())
        assert_close(shared, parts.prompts.input.grad)
