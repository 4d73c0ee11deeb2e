"""Loads the parts of a split model: of the files only the tensors that a part holds are ever read."""

import contextlib
import json
from collections.abc import Callable, Iterator
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
    with _tensors(source, cut.client_layers(), outside=True) as tensors:
        loaded = load_weights(
            model, source, shortened(config, cut.client_layers()), device=device, seed=seed, tensors=tensors
        )
    return replace(loaded, fingerprint=with_cut(loaded.fingerprint, cut))


def load_body(model: ModelSection, split: SplitSection, *, device: torch.device) -> BodyModel:
    """Load the layers between the cuts, frozen, in eval mode, fp32, on `device`; of head and tail nothing is read.

    Raises ModelError.
    """
    source, config, family, cut = _prepare(model, split)
    with _tensors(source, cut.body_layers(), outside=False) as tensors:
        body = fill_body(model, source, family, shortened(config, cut.body_layers()), cut, tensors)
    return body.to(device)


def _prepare(model: ModelSection, split: SplitSection) -> tuple[ModelSource, Any, Family, Cut]:
    if model.quantization != "none":
        raise ModelError('A split model is not quantised: set model.quantization = "none".')
    source = find_model(model.name, model.revision)
    config = load_config(model, source)
    family = family_of(config)
    check_split_task(model.task, family)
    _check_length(model, split, config)
    return source, config, family, cut_of(split, config)


def _check_length(model: ModelSection, split: SplitSection, config: Any) -> None:
    """A prompt takes up positions of a causal LM; an encoder's are added before the prompt comes in."""
    longest = getattr(config, "max_position_embeddings", None)
    if model.task == "causal-lm" and longest and model.max_length + split.prompt_tokens > longest:
        raise ModelError(
            f"{model.name} reads at most {longest} tokens, and {split.prompt_tokens} of them are the soft prompt's "
            f"(split.prompt_tokens), so model.max_length = {model.max_length} must become "
            f"{max(0, longest - split.prompt_tokens)} or less."
        )


@contextlib.contextmanager
def _tensors(source: ModelSource, layers: tuple[int, ...], *, outside: bool) -> Iterator[dict[str, Any]]:
    """Slices of all tensors of these layers, numbered anew, and of those outside of all layers; none is read yet.

    Files that hold none of them are not even opened.
    """
    numbers = {old: new for new, old in enumerate(layers)}

    def called(name: str) -> str | None:
        return renumbered(name, numbers) if outside or layer_number(name) is not None else None

    with contextlib.ExitStack() as stack:
        slices: dict[str, Any] = {}
        try:
            for path in _files(source.folder, called):
                opened = stack.enter_context(safe_open(path, framework="pt", device="cpu"))
                here = {called(name): name for name in opened.keys()}  # noqa: SIM118 - not a mapping
                slices |= {new: opened.get_slice(old) for new, old in here.items() if new is not None}
        except UNREADABLE as error:
            raise unreadable(source, error) from error
        yield slices


def _files(folder: Path, called: Callable[[str], str | None]) -> list[Path]:
    """The safetensors files of a checkpoint as transformers picks them: the single one, or those of the index."""
    if (folder / SINGLE).is_file() or not (folder / INDEX).is_file():
        return [folder / SINGLE]
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    files = {file for name, file in dict(index["weight_map"]).items() if called(name) is not None}
    return [folder / file for file in sorted(files)]
