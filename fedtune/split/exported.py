"""What a split run exported, as one whole model again: the trained weights in place, the prompts among the tokens."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from fedtune.adapters.merge import fold
from fedtune.adapters.read import read_adapter
from fedtune.adapters.replaced import Replaced, put_in, read_replaced
from fedtune.adapters.saved import CONFIG
from fedtune.errors import AdapterError
from fedtune.models.load import load_model
from fedtune.recipe import ModelSection
from fedtune.recipe.split import SplitSection
from fedtune.split.cut import Cut, cut_of
from fedtune.split.parts import ClientParts
from fedtune.split.prompt import Prompts


class Prompted(nn.Module):
    """A whole model with soft prompts; called as the plain model is, with logits of the same shapes."""

    def __init__(self, model: nn.Module, cut: Cut, section: ModelSection, prompts: Prompts) -> None:
        super().__init__()
        self.model = model
        self.prompts = prompts
        # All layers behind the first cut are the tail: nothing is elsewhere.
        self._parts = ClientParts.of(model, Cut(cut.head, 0, cut.whole - cut.head), section.task, prompts)

    def forward(self, **batch: torch.Tensor) -> Any:
        """The output with `logits`, and `loss` where there are labels."""
        return self._parts.short(**batch)


def load_exported(folder: Path | str, *, model: str = "", device: torch.device | str = "cpu") -> Prompted:
    """The model in a folder that `fedtune export` wrote of a run with soft prompts; frozen, in eval mode.

    `model` is where the base model is on this machine, if elsewhere than at the run's. Raises AdapterError where the
    folder holds no prompts or is damaged, ModelError where the base model cannot be loaded.
    """
    weights = read_replaced(Path(folder))
    if not weights.prompt:
        raise AdapterError(f"{folder} holds no soft prompts; load it as the README.md in it says")
    section, split = _sections(weights, Path(folder))
    section = section.model_copy(update={"name": model or section.name})
    loaded = load_model(section, device=torch.device(device), seed=0)
    if (Path(folder) / CONFIG).exists():
        _put_adapter(Path(folder), loaded.model)
    else:
        put_in(weights, loaded.model)
    cut = cut_of(split, loaded.model.config)
    prompts = _prompts(weights, cut, at_cut=split.prompt_at == "cut").requires_grad_(False).to(device)
    return Prompted(loaded.model, cut, section, prompts).eval()


def _sections(weights: Replaced, folder: Path) -> tuple[ModelSection, SplitSection]:
    try:
        model = ModelSection.model_validate_json(json.dumps(weights.about["model"]))
        return model, SplitSection.model_validate_json(json.dumps(weights.about["split"]))
    except ValidationError as error:
        raise AdapterError(f"{folder} does not say where its prompts stand; export them again") from error


def _put_adapter(folder: Path, model: nn.Module) -> None:
    """Fold a LoRA adapter into the weights, and put its task head in place."""
    saved = read_adapter(folder)
    for name, (a, b) in saved.products.items():
        fold(model.get_submodule(name), b.double() @ a.double())
    put_in(Replaced(saved.base, "", saved.head), model)


def _prompts(weights: Replaced, cut: Cut, *, at_cut: bool) -> Prompts:
    """The prompts, those of deeper layers by their numbers in the whole model."""
    held = cut.client_layers()
    renamed = {re.sub(r"\d+", lambda found: str(held[int(found[0])]), name): t for name, t in weights.prompt.items()}
    deep = tuple(int(name.removeprefix("layer.")) for name in renamed if name.startswith("layer."))
    tokens, width = renamed["input"].shape
    prompts = Prompts(tokens, width, deep, at_cut=at_cut)
    prompts.load_state_dict(renamed)
    return prompts
