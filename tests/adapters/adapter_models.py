"""Tiny models of four families, with their adapters and a batch, for the adapter tests."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageClassification, AutoModelForSequenceClassification

from fedtune.adapters.attach import attach
from fedtune.adapters.base import Attached
from fedtune.adapters.square_layer import SquareLayer
from fedtune.models.base import LoadedModel
from fedtune.models.load import load_model
from fedtune.recipe import AdapterSection, ModelSection

FAMILIES = {
    "bert": "sequence-classification",
    "llama": "causal-lm",
    "gpt2": "causal-lm",
    "vit": "image-classification",
}
AUTO = {
    "sequence-classification": AutoModelForSequenceClassification,
    "causal-lm": AutoModelForCausalLM,
    "image-classification": AutoModelForImageClassification,
}
OPTIONS = {"bert": {"num_labels": 3}, "vit": {"num_labels": 3}, "llama": {}, "gpt2": {}}
KINDS = {
    "square": {"kind": "square", "init": "weights"},
    "lora": {"kind": "lora", "init": "kaiming", "alpha": 6.0},
    "ffa": {"kind": "lora", "init": "kaiming", "alpha": 6.0, "freeze_a": True},
    "ravan": {"kind": "ravan", "init": "random", "heads": 3},
}


def load(folder: Path, family: str) -> LoadedModel:
    task = FAMILIES[family]
    labels = () if task == "causal-lm" else ("a", "b", "c")
    return load_model(
        ModelSection(name=str(folder), task=task, labels=labels, image_size=16), device=torch.device("cpu"), seed=3
    )


def attached_to(folder: Path, family: str, **section: object) -> tuple[LoadedModel, Attached]:
    loaded = load(folder, family)
    return loaded, attach(loaded, AdapterSection(**{"rank": 4, **section}), task=FAMILIES[family])


def batch(family: str) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    if family == "vit":
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=draw)}
    return {
        "input_ids": torch.randint(5, 20, (2, 7), generator=draw),
        "attention_mask": torch.ones(2, 7, dtype=torch.long),
    }


def logits(model: torch.nn.Module, family: str) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**batch(family)).logits


def shake(attached: Attached, scale: float = 0.2) -> None:
    """Non-trivial trained values."""
    draw = torch.Generator().manual_seed(2)
    attached.load({n: t + scale * torch.randn(t.shape, generator=draw) for n, t in attached.read().items()})


def product(layer: SquareLayer) -> torch.Tensor:
    """ΔW = B·R·A of what is loaded, in double precision."""
    b, r, a = (part.detach().double() for part in (layer.B, layer.R, layer.A))
    return b @ r @ a
