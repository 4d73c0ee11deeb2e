"""Small pieces that the tests of the local steps share: a plain square adapter, encoded rows, a tiny resident."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageClassification, AutoModelForSequenceClassification

from fedtune.adapters.attach import attach
from fedtune.adapters.base import Attached, Products
from fedtune.adapters.shift import NO_SHIFT, Shift, dense_of, modules_of
from fedtune.adapters.slots import Axes
from fedtune.data.base import Batch
from fedtune.models.base import LoadedModel
from fedtune.recipe import AdapterSection, ModelSection, Recipe, TrainingSection
from fedtune.state import Shapes, State
from fedtune.training.base import Assignment
from fedtune.training.resident import Resident

CPU = torch.device("cpu")
AUTO = {
    "sequence-classification": AutoModelForSequenceClassification,
    "image-classification": AutoModelForImageClassification,
    "causal-lm": AutoModelForCausalLM,
}


class HookedSquare(Attached):
    """y + x·Aᵀ·Rᵀ·Bᵀ by forward hooks, so that no module of the model is replaced; the head is trained too."""

    shared_origin = "recomputed"
    scale = 1.0

    def __init__(self, model: nn.Module, targets: Sequence[str], head: Sequence[str] = (), rank: int = 4) -> None:
        self.model = model
        self.slots = rank
        self.shift = NO_SHIFT
        self._targets = tuple(sorted(targets))
        self._parameters: dict[str, nn.Parameter] = {}
        draw = torch.Generator().manual_seed(5)
        for name in self._targets:
            self._hook(name, rank, draw)
        for part in head:
            for name, parameter in model.get_submodule(part).named_parameters():
                self._parameters[f"head.{part}.{name}"] = parameter.requires_grad_()

    def _hook(self, name: str, rank: int, draw: torch.Generator) -> None:
        module = self.model.get_submodule(name)
        out, in_ = module.weight.shape if isinstance(module, nn.Linear) else reversed(module.weight.shape)
        a, b = torch.randn(rank, in_, generator=draw) / 4, torch.randn(out, rank, generator=draw) / 4
        r = self._parameters[f"{name}.R"] = nn.Parameter(torch.zeros(rank, rank))
        module.register_forward_hook(lambda _, x, y: y + x[0] @ a.T @ r.T @ b.T + self._shifted(name, x[0]))

    def _shifted(self, name: str, x: torch.Tensor) -> torch.Tensor | float:
        return x @ dense_of(self.shift.tensors, name).float().T if name in modules_of(self.shift.tensors) else 0.0

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(sorted(self._parameters.items()))

    def shared(self) -> State:
        return {}

    def load_shared(self, factors: Mapping[str, torch.Tensor]) -> None:
        raise NotImplementedError

    def initialise(self, gradients: Mapping[str, torch.Tensor]) -> None:
        raise NotImplementedError

    def axes(self) -> Axes:
        return {name: (0, 1) if name.endswith(".R") else () for name in self._parameters}

    def products(self, state: State) -> Products:
        raise NotImplementedError

    def shift_to(self, shift: Shift) -> None:
        self.shift = shift

    def targets(self) -> tuple[str, ...]:
        return self._targets

    def target_shapes(self) -> Shapes:
        raise NotImplementedError

    def save(self, folder: Path, base: str) -> None:
        raise NotImplementedError

    def merged(self) -> nn.Module:
        raise NotImplementedError


@dataclass(frozen=True)
class ListRows:
    """Encoded rows in a list, padded on the right."""

    examples: Sequence[Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, indices: Sequence[int]) -> Batch:
        chosen = [self.examples[i] for i in indices]
        if "pixel_values" in chosen[0]:
            return {
                "pixel_values": torch.stack([row["pixel_values"] for row in chosen]),
                "labels": torch.tensor([row["labels"] for row in chosen]),
            }
        width = max(len(row["input_ids"]) for row in chosen)
        batch = {
            "input_ids": _padded([row["input_ids"] for row in chosen], width, 0),
            "attention_mask": _padded([[1] * len(row["input_ids"]) for row in chosen], width, 0),
        }
        labels = [row["labels"] for row in chosen]
        batch["labels"] = torch.tensor(labels) if isinstance(labels[0], int) else _padded(labels, width, -100)
        return batch


def _padded(rows: Sequence[Sequence[int]], width: int, fill: int) -> torch.Tensor:
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


@dataclass(frozen=True)
class Meddling:
    """Rows whose reading writes to a tensor."""

    inner: ListRows
    tensor: torch.Tensor

    def __len__(self) -> int:
        return len(self.inner)

    def batch(self, indices: Any) -> Any:
        with torch.no_grad():
            self.tensor.view(-1)[0] += 1
        return self.inner.batch(indices)


def text_rows(count: int, *, seed: int = 0, classes: int = 3) -> ListRows:
    """Sentences of 3 to 9 tokens with a class each."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 10, (count,), generator=draw).tolist()
    ids = [torch.randint(4, 40, (n,), generator=draw).tolist() for n in lengths]
    return ListRows([{"input_ids": row, "labels": (sum(row) + seed) % classes} for row in ids])


def answer_rows(count: int, *, seed: int = 0) -> ListRows:
    """Token rows whose first part is a prompt, not learned, and whose answers have 1 to 6 tokens."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        prompt, answer = torch.randint(1, 7, (2,), generator=draw).tolist()
        ids = torch.randint(2, 200, (prompt + answer,), generator=draw).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return ListRows(rows)


def image_rows(count: int, *, seed: int = 0, classes: int = 3) -> ListRows:
    """Noise images of 16 x 16 with a class each."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 16, 16, generator=draw)
    return ListRows([{"pixel_values": image, "labels": i % classes} for i, image in enumerate(images)])


def load_plain(folder: Path, task: str, **config: Any) -> nn.Module:
    """A model as transformers loads it, with a seeded head, in eval mode."""
    labels = {} if task == "causal-lm" else {"num_labels": 3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        model = AUTO[task].from_pretrained(folder, **labels, **config)
    return model.eval()


def plain_targets(model: nn.Module) -> list[str]:
    """The query and value projections, by whatever name the family has for them."""
    return [n for n, _ in model.named_modules() if n.endswith(("query", "value", "q_proj", "v_proj", "c_attn"))]


def tiny_recipe(task: str = "sequence-classification", **training: Any) -> Recipe:
    """A recipe for the CPU with these training options."""
    return Recipe(model=ModelSection(name="tiny", task=task), training=TrainingSection(**{"device": "cpu", **training}))


def tiny_resident(folder: Path, task: str = "sequence-classification", **training: Any) -> Resident:
    """A tiny model of this folder with a square adapter on its queries and values."""
    model = load_plain(folder, task).requires_grad_(False)
    head = () if task == "causal-lm" else ("classifier",)
    attached = HookedSquare(model, plain_targets(model), head)
    return Resident.of(LoadedModel(model, None, "", head, str(folder)), attached, CPU, tiny_recipe(task, **training))


def adapted_resident(
    folder: Path, section: AdapterSection, task: str = "sequence-classification", **training: Any
) -> Resident:
    """A tiny model of this folder with the adapter that `section` names."""
    head = () if task == "causal-lm" else ("classifier",)
    loaded = LoadedModel(load_plain(folder, task), None, "", head, str(folder))
    return Resident.of(loaded, attach(loaded, section, task=task), CPU, tiny_recipe(task, **training))


def random_state(resident: Resident, seed: int = 0) -> State:
    """A state of the resident's adapter that is far from zero."""
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draw) / 5 for name, shape in resident.shapes().items()}


def assignment(
    resident: Resident, rows: ListRows, *, client: str = "c", seed: int = 1, state_seed: int = 0
) -> Assignment:
    """One client's share, starting from a random state."""
    return Assignment(client, 1, random_state(resident, state_seed), rows, seed)
