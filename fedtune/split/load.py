"""Loads the parts of a split model: of the files only the tensors that a part holds are ever read."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from fedtune.errors import ModelError
from fedtune.models.base import LoadedModel
from fedtune.models.load import UNREADABLE, load_config, load_weights, unreadable
from fedtune.models.source import ModelSource, find_model
from fedtune.recipe import ModelSection
from fedtune.recipe.split import SplitSection
from fedtune.split.body import BodyModel, fill_body
from fedtune.split.cut import Cut, cut_of, layer_number, renumbered, shortened, with_cut
from fedtune.split.family import Family, check_split_task, family_of

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def load_client_part(model: ModelSection, split: SplitSection, *, device: torch.device, seed: int) -> LoadedModel:
    """Load head and tail as one model of the task, the layers of the body left out: the short circuit.

    Its layers are numbered anew (`whole_name` gives the old names). Guarantees those of `load_model`; the task head is
    the one that `load_model` draws from this seed; no tensor of the body is read. The fingerprint tells both the
    part's weights and the cut. Raises ModelError.
    """
    source, config, _, cut = _prepare(model, split)
    with _tensors(source, cut.client_layers()) as tensors:
        loaded = load_weights(
            model, source, shortened(config, cut.client_layers()), device=device, seed=seed, tensors=tensors
        )
    return replace(loaded, fingerprint=with_cut(loaded.fingerprint, cut))


def load_body(model: ModelSection, split: SplitSection, *, device: torch.device) -> BodyModel:
    """Load the layers between the cuts, frozen, in eval mode, fp32, on `device`; of head and tail nothing is read.

    Raises ModelError.
    """
    source, config, family, cut = _prepare(model, split)
    with _tensors(source, cut.body_layers()) as tensors:
        layers = {name: tensor for name, tensor in tensors.items() if layer_number(name) is not None}
        body = fill_body(model, source, family, shortened(config, cut.body_layers()), cut, layers)
    return body.to(device)


def _prepare(model: ModelSection, split: SplitSection) -> tuple[ModelSource, Any, Family, Cut]:
    if model.quantization != "none":
        raise ModelError('A split model is not quantised: set model.quantization = "none".')
    source = find_model(model.name, model.revision)
    config = load_config(model, source)
    family = family_of(config)
    check_split_task(model.task, family)
    return source, config, family, cut_of(split, config)


@contextlib.contextmanager
def _tensors(source: ModelSource, layers: tuple[int, ...]) -> Iterator[Mapping[str, Any]]:
    """Slices of all tensors of these layers, renumbered from 0, and of those outside of the layers; none is read."""
    numbers = {old: new for new, old in enumerate(layers)}
    with contextlib.ExitStack() as stack:
        slices: dict[str, Any] = {}
        try:
            for path in _files(source.folder):
                opened = stack.enter_context(safe_open(path, framework="pt", device="cpu"))
                for name in opened.keys():  # noqa: SIM118 - not a mapping
                    renamed = renumbered(name, numbers)
                    if renamed is not None:
                        slices[renamed] = opened.get_slice(name)
        except UNREADABLE as error:
            raise unreadable(source, error) from error
        yield slices


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, as transformers picks them: the single one, or those of the index."""
    if (folder / SINGLE).is_file() or not (folder / INDEX).is_file():
        return [folder / SINGLE]
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return [folder / name for name in sorted(set(index["weight_map"].values()))]
