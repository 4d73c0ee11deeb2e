"""Tiny random models of every family that can be split, their batches, and their parts."""

import atexit
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from torch import nn

from fedtune.models.base import LoadedModel
from fedtune.models.load import load_model
from fedtune.recipe import ModelSection
from fedtune.recipe.split import SplitSection
from fedtune.split.base import Smashed
from fedtune.split.body import BodyModel
from fedtune.split.load import load_body, load_client_part
from fedtune.split.parts import ClientParts
from fedtune.split.prompt import Prompts
from tests.factories import _byte_tokenizer, _save, _word_tokenizer

CPU = torch.device("cpu")
LAYERS = 4
WIDTH = 16
SEED = 3
SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.2,  # else one layer hardly differs from none
}
IMAGES: dict[str, Any] = {"image_size": 16, "patch_size": 8}
NORMAL = {"max_position_embeddings": 80}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViT", "image-classification", SIZES | IMAGES),
    "dinov2": ("Dinov2", "image-classification", SIZES | IMAGES),
    "bert": ("Bert", "sequence-classification", SIZES | NORMAL),
    "roberta": ("Roberta", "sequence-classification", SIZES | NORMAL),
    "distilbert": (
        "DistilBert",
        "sequence-classification",
        NORMAL | {"dim": WIDTH, "n_layers": LAYERS, "n_heads": 2, "hidden_dim": 32, "initializer_range": 0.2},
    ),
    "llama": ("Llama", "causal-lm", SIZES | NORMAL | {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", "causal-lm", SIZES | NORMAL | {"num_key_value_heads": 1, "tie_word_embeddings": False}),
    "qwen3": (
        "Qwen3",
        "causal-lm",
        SIZES | NORMAL | {"num_key_value_heads": 1, "head_dim": 6, "tie_word_embeddings": True},
    ),
    "mistral": ("Mistral", "causal-lm", SIZES | NORMAL | {"num_key_value_heads": 1, "sliding_window": None}),
    "gpt2": (
        "GPT2",
        "causal-lm",
        {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2, "n_positions": 80, "initializer_range": 0.2},
    ),
}
"""By `model_type`: what the classes of transformers start with, the task, and the config."""


def make(folder: Path, family: str, **other: Any) -> Path:
    """A random model of the family in `folder`, its config changed by `other`."""
    prefix, task, fields = FAMILIES[family]
    text = None if task == "image-classification" else _byte_tokenizer() if task == "causal-lm" else _word_tokenizer()
    words = {} if text is None else {"vocab_size": len(text)}
    ends = {"bos_token_id": 0, "eos_token_id": 1} if task == "causal-lm" else {}
    kind = {"causal-lm": "LMHeadModel" if family == "gpt2" else "ForCausalLM"}.get(task, "Model")
    config = getattr(transformers, f"{prefix}Config")(**(fields | words | ends | other))
    return _save(folder, getattr(transformers, f"{prefix}{kind}"), config, text, 0)


@cache
def folder(family: str) -> Path:
    """A random model of the family, one a process."""
    root = tempfile.mkdtemp(prefix="fedtune-split-")
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return make(Path(root), family)


def section(family: str, path: Path | None = None) -> ModelSection:
    task: Any = FAMILIES[family][1]
    labels = () if task == "causal-lm" else ("a", "b", "c")
    return ModelSection(name=str(path or folder(family)), task=task, labels=labels, image_size=16, max_length=32)


def whole(family: str, *, fresh: bool = False) -> LoadedModel:
    """The whole model: `fresh` for one that may be changed, else one a process."""
    return _whole.__wrapped__(family) if fresh else _whole(family)


@cache
def _whole(family: str) -> LoadedModel:
    return load_model(section(family), device=CPU, seed=SEED)


def batch(family: str, *, rows: int = 3, length: int = 7, seed: int = 0) -> dict[str, torch.Tensor]:
    """Images, or padded texts of different lengths, with labels; nothing is to be predicted at a text's first token."""
    draw = torch.Generator().manual_seed(seed)
    task = FAMILIES[family][1]
    classes = torch.randint(0, 3, (rows,), generator=draw)
    if task == "image-classification":
        return {"pixel_values": torch.randn(rows, 3, 16, 16, generator=draw), "labels": classes}
    ids = torch.randint(5, 20, (rows, length), generator=draw)
    lengths = torch.randint(2, length + 1, (rows, 1), generator=draw)
    mask = (torch.arange(length) < lengths).long()
    labels = classes if task != "causal-lm" else torch.where(mask == 1, ids, -100)
    if task == "causal-lm":
        labels[:, 0] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@dataclass(frozen=True)
class Split:
    """A model in its parts."""

    client: LoadedModel
    body: BodyModel
    parts: ClientParts
    prompts: Prompts | None

    def forward(self, inputs: dict[str, torch.Tensor]) -> Any:
        """The whole model's output, in one graph."""
        smashed = self.parts.head(inputs)
        output = self.body(smashed.hidden, smashed.mask)[:, self.parts.wants().output]
        return self.parts.tail(Smashed(output, smashed.mask), inputs)

    def backward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """One pass forward and back as machines do it, with nothing but tensors between the parts; returns the loss."""
        wants = self.parts.wants()
        smashed = self.parts.head(inputs)
        sent = smashed.hidden.detach().requires_grad_()
        output = self.body(sent, smashed.mask)[:, wants.output]
        received = output.detach().requires_grad_()
        loss: torch.Tensor = self.parts.tail(Smashed(received, smashed.mask), inputs).loss
        loss.backward()
        output.backward(received.grad)
        if wants.gradient is not None and sent.grad is not None:
            smashed.hidden[:, wants.gradient].backward(sent.grad[:, wants.gradient])
        return loss.detach()


def split(family: str, head: int = 1, tail: int = 1, *, fresh: bool = False, **prompt: Any) -> Split:
    """The family's model in its parts, with new prompts where `prompt` says so.

    `fresh` for parts that may be changed, else client part and body are there once a process.
    """
    cuts = SplitSection(head_layers=head, tail_layers=tail, **prompt)
    client, body = (_parts.__wrapped__ if fresh else _parts)(family, head, tail)
    prompts = Prompts.of(cuts, body.width, body.cut.client, seed=1)
    return Split(client, body, ClientParts.of(client.model, body.cut, section(family).task, prompts), prompts)


@cache
def _parts(family: str, head: int, tail: int) -> tuple[LoadedModel, BodyModel]:
    cuts = SplitSection(head_layers=head, tail_layers=tail)
    client = load_client_part(section(family), cuts, device=CPU, seed=SEED)
    return client, load_body(section(family), cuts, device=CPU)


def base_of(model: nn.Module) -> nn.Module:
    """The base model inside a task model."""
    return model.get_submodule(str(model.base_model_prefix))


CUTS = SplitSection(head_layers=1, tail_layers=1)


def client_of(model: ModelSection, cuts: SplitSection = CUTS, *, seed: int = SEED) -> Any:
    return load_client_part(model, cuts, device=CPU, seed=seed)


def body_of(model: ModelSection, cuts: SplitSection = CUTS) -> Any:
    return load_body(model, cuts, device=CPU)


def on_disk(path: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        tensors |= safetensors.torch.load_file(file)
    return tensors


def bytes_of(model: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def rewrite(path: Path, keep: Callable[[str], bool]) -> None:
    """Leave out tensors of a folder's file."""
    tensors = {name: tensor for name, tensor in on_disk(path).items() if keep(name)}
    safetensors.torch.save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def assert_close(one: torch.Tensor, other: torch.Tensor) -> None:
    """Equal within 1e-5 of the largest number."""
    torch.testing.assert_close(one.detach(), other.detach(), atol=1e-5 * max(1.0, float(other.abs().max())), rtol=0.0)
