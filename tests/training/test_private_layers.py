"""Gradients by row of single layers against autograd, and every model that private steps refuse."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from fedtune.adapters.prompt_layer import PromptLayer
from fedtune.adapters.ravan_layer import ScaledSquares
from fedtune.errors import PrivacyError
from fedtune.recipe import AdapterSection
from fedtune.training.private import PrivateStep
from fedtune.training.private_checks import check_keeps_apart, private_layers
from fedtune.training.private_samplers import samplers
from fedtune.training.resident import Resident
from tests.training.parts import adapted_resident, answer_rows, assignment, load_plain, text_rows, tiny_resident
from tests.training.private_parts import ADAPTERS, Given, private

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 4), (5, 6)),
    "linear of one position": (lambda: nn.Linear(6, 4), (6,)),
    "linear without bias": (lambda: nn.Linear(6, 4, bias=False), (2, 3, 6)),
    "norm": (lambda: nn.LayerNorm(6), (5, 6)),
    "convolution": (lambda: nn.Conv2d(3, 4, 2, stride=2), (3, 6, 6)),
    "squares": (lambda: ScaledSquares(3, 2, torch.device("cpu")), (5, 6)),
    "prompt": (lambda: PromptLayer(torch.zeros(3, 6), 1), (5, 6)),
    "squares of one position": (lambda: ScaledSquares(3, 2, torch.device("cpu")), (6,)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layers_gradients_by_row_are_those_of_each_row_alone(kind: str) -> None:
    make, shape = LAYERS[kind]
    draw = torch.Generator().manual_seed(4)
    layer = make().double()
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
    x = torch.randn(7, *shape, generator=draw, dtype=torch.float64)
    g = torch.randn(layer(x).shape, generator=draw, dtype=torch.float64)
    taken = samplers()[type(layer)](layer, [x], g)
    assert set(taken) == set(layer.parameters())
    for row in range(7):
        alone = torch.autograd.grad(layer(x[row : row + 1]), list(layer.parameters()), g[row : row + 1])
        for parameter, expected in zip(layer.parameters(), alone, strict=True):
            torch.testing.assert_close(taken[parameter][row], expected, rtol=1e-10, atol=1e-10)


def test_a_frozen_part_of_a_layer_gets_no_gradients() -> None:
    squares = ScaledSquares(2, 3, torch.device("cpu"))
    squares.s.requires_grad_(False)
    assert set(samplers()[ScaledSquares](squares, [torch.ones(4, 6)], torch.ones(4, 6))) == {squares.H}


class Wrapped(nn.Module):
    """A tiny model in which something can go wrong, called as a classifier is."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.head = nn.Linear(4, 3)

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        x = torch.cos(input_ids[:, :3, None].float() * torch.arange(1, 5))
        for part in self.parts:
            x = x + part(x)
        return SimpleNamespace(logits=self.head(x.mean(dim=1)))


def resident_of(model: nn.Module, folder: Path) -> Resident:
    """A resident whose adapter is the last layer of `model` and all of its parts that are trained."""
    home = private(tiny_resident(folder, steps=1))
    home.attached.model = model  # type: ignore[misc]
    named = {f"head.{name}": p for name, p in model.named_parameters() if p.requires_grad}
    home.attached._parameters = named  # type: ignore[attr-defined]
    return replace(home, initial=home.attached.read())


def run(home: Resident) -> Any:
    return next(PrivateStep(home, rows=Given([0, 1, 2])).train([assignment(home, text_rows(4))]))


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


def test_a_model_of_known_layers_is_trained(tiny_bert_folder: Path) -> None:
    twice = nn.Linear(4, 4)
    model = Wrapped(nn.LayerNorm(4), frozen(nn.Linear(4, 4)), twice, nn.Sequential(twice, nn.Tanh()))
    # One module in two places of the tree is one too many for a name, and used twice it would add up.
    with pytest.raises(PrivacyError, match="belongs to more than one layer"):
        run(resident_of(model, tiny_bert_folder))
    assert run(resident_of(Wrapped(nn.LayerNorm(4), frozen(nn.Linear(4, 4)), nn.Linear(4, 4)), tiny_bert_folder))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(torch.tanh(self.inner(x)))  # type: ignore[no-any-return]


def test_a_layer_that_is_used_twice_adds_up(tiny_bert_folder: Path) -> None:
    """`check_apart` compares with autograd's own sum, so a missed use would be an error."""
    step = PrivateStep(home := resident_of(Wrapped(Twice()), tiny_bert_folder), rows=Given([0, 1, 2]))
    next(step.train([assignment(home, text_rows(4))]))
    assert step._seen_apart


class Flattening(nn.Module):
    """Positions of all rows in one row: whose they are cannot be told any more."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.flatten(0, 1)).view_as(x)  # type: ignore[no-any-return]


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Outside(nn.Module):
    """A trained weight that is used without its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + torch.tanh(x @ self.inner.weight)  # type: ignore[no-any-return]


class Centred(nn.Module):
    """A mean over the rows of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * self.inner(x - x.mean(dim=0))  # type: ignore[no-any-return]


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.w


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (Flattening(), "must have one gradient an example and has one of shape"),
        (Unused(), "must have one gradient an example and has none"),
        (Outside(), "is used outside of its own layer too"),
        (Centred(), "this model mixes rows"),
        (Bilinear(), "in a layer of class Bilinear, whose gradient cannot be taken by example"),
        (nn.Embedding(4, 4), "in a layer of class Embedding"),
        (nn.BatchNorm1d(3), "in a layer of class BatchNorm1d"),
        (frozen(nn.BatchNorm1d(3, track_running_stats=False)), "normalises over the rows of a batch"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_cannot_be_clipped_by_row_is_refused(part: nn.Module, said: str, tiny_bert_folder: Path) -> None:
    with pytest.raises(PrivacyError, match=said):
        run(resident_of(Wrapped(part), tiny_bert_folder))


def test_a_batch_norm_with_statistics_of_its_own_treats_each_row_alone() -> None:
    check_keeps_apart(nn.Sequential(nn.BatchNorm1d(4)))


def test_an_adapter_outside_of_the_models_layers_is_refused(tiny_bert_folder: Path) -> None:
    home = private(tiny_resident(tiny_bert_folder, steps=1))
    with pytest.raises(PrivacyError, match="belongs to no layer of the model"):
        run(home)


def test_tied_weights_are_refused(tiny_llama_folder: Path) -> None:
    """A tied output layer is the embedding too, whose gradient no layer of the adapter sees."""
    home = private(adapted_resident(tiny_llama_folder, ADAPTERS["square"], "causal-lm", steps=1))
    model = home.attached.model
    tied = model.get_output_embeddings().weight.requires_grad_(True)  # type: ignore[operator,union-attr]
    with pytest.raises(PrivacyError, match=r"'head.lm_head.weight' belongs to more than one layer"):
        private_layers(model, {**home.attached.parameters(), "head.lm_head.weight": tied})


def test_a_base_weight_that_requires_a_gradient_is_refused(tiny_bert_folder: Path) -> None:
    home = private(adapted_resident(tiny_bert_folder, ADAPTERS["lora"], steps=1))
    home.loaded.model.get_parameter("bert.embeddings.word_embeddings.weight").requires_grad_(True)
    with pytest.raises(PrivacyError, match=r"'bert.embeddings.*' requires a gradient and is not trained"):
        run(home)


def test_methods_of_peft_that_train_outside_of_layers_are_refused(tiny_bert_folder: Path) -> None:
    """IA3's scales are no layer's that Opacus knows: the recipe refuses such kinds, and so do the steps."""
    section = AdapterSection(kind="peft", init="random", peft_type="ia3")
    with pytest.raises(PrivacyError, match="cannot be taken by example"):
        run(private(adapted_resident(tiny_bert_folder, section, steps=1)))


def test_doras_magnitudes_are_refused(tiny_bert_folder: Path) -> None:
    """Its weight's norm runs over both factors, outside of their layers."""
    model = load_plain(tiny_bert_folder, "sequence-classification").requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=2, use_dora=True, target_modules=["query"]), model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert any("magnitude" in name for name in trained)
    with pytest.raises(PrivacyError, match="in a layer of class DoraLinearLayer"):
        private_layers(model, trained)


def test_no_name_of_a_wrapper_reaches_the_state(tiny_gpt2_folder: Path) -> None:
    """Opacus' own module would put `_module.` in front of every name."""
    home = private(adapted_resident(tiny_gpt2_folder, ADAPTERS["lora"], "causal-lm", steps=1))
    share = assignment(home, answer_rows(4))
    result = next(PrivateStep(home, rows=Given([0, 2])).train([share]))
    assert set(result.state) == set(share.state)
    assert not [name for name, _ in home.attached.model.named_parameters() if "_module" in name]
