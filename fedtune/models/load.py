"""Loads a base model for a task: frozen, in eval mode, with a head that starts the same everywhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from fedtune.errors import ModelError
from fedtune.models.base import LoadedModel
from fedtune.models.dropout import set_chances
from fedtune.models.fingerprint import fingerprint
from fedtune.models.head import head_modules, initialise_head, is_inside
from fedtune.models.processor import load_processor
from fedtune.models.quantize import nf4_arguments
from fedtune.models.quiet import quiet_transformers
from fedtune.models.source import ModelSource, find_model
from fedtune.models.task import TASKS, auto_class, check_task, label_fields
from fedtune.recipe import ModelSection

UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError)
"""What transformers and safetensors raise for files that are damaged, incomplete or not theirs."""


def load_model(section: ModelSection, *, device: torch.device, seed: int) -> LoadedModel:
    """Load the model that a recipe names, on `device`, in fp32 (or NF4 where the section says so).

    Guarantees: every parameter is frozen; only a Hub id may use the network; no code and no pickle of the model is
    run; a head that the checkpoint lacks is drawn from `seed` alone, and the global random state is left as it was;
    base weights that the checkpoint lacks are an error, never random. Raises ModelError.
    """
    source = find_model(section.name, section.revision)
    return load_weights(section, source, load_config(section, source), device=device, seed=seed)


def load_weights(
    section: ModelSection,
    source: ModelSource,
    config: Any,
    *,
    device: torch.device,
    seed: int,
    tensors: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """The same with a config, and with the tensors of a part of the model in the place of all that the folder holds.

    `tensors` are PyTorch's, or slices of safetensors, which are read only where the model of `config` has such a one.
    """
    quantised = nf4_arguments(device) if section.quantization == "nf4" else {}
    with quiet_transformers(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model, fresh = _fill(section, source, config, tensors, quantised)
        head = tuple(sorted({*head_modules(model, section.task), *_fresh_modules(fresh)}))
        refuse_missing(section, fresh, head)
        initialise_head(model, tuple(sorted(fresh)), seed)
        processor = load_processor(section, source.folder, model)
    model.requires_grad_(False)
    model.eval()
    if not quantised:
        model.to(device)
    if TASKS[section.task].reads == "images":
        _check_image_size(section, model, device)
    return LoadedModel(model, processor, fingerprint(model, head), head, source.name)


def load_config(section: ModelSection, source: ModelSource) -> Any:
    """The config in the model's folder, its classes named, its dropout the section's.

    Raises ModelError where the section's task does not fit.
    """
    from transformers import AutoConfig

    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(source.folder, local_files_only=True, trust_remote_code=False)
    except UNREADABLE as error:
        raise unreadable(source, error) from error
    check_task(section, config)
    for field, value in label_fields(section, config).items():
        setattr(config, field, value)
    if section.dropout is not None:
        set_chances(config, section.dropout)
    return config


def _fill(
    section: ModelSection,
    source: ModelSource,
    config: Any,
    tensors: Mapping[str, Any] | None,
    quantised: dict[str, Any],
) -> tuple[Any, frozenset[str]]:
    """The model, and the names of the parameters that the checkpoint did not fill."""
    kind = auto_class(section.task)
    if tensors is None:
        return from_folder(kind, source, config, **quantised)
    return from_tensors(kind._model_mapping[type(config)], source, config, tensors, **quantised)


def from_folder(kind: Any, source: ModelSource, config: Any, **arguments: Any) -> tuple[Any, frozenset[str]]:
    """A model of a `transformers` class from a folder, fp32, and the names of what the folder did not fill."""
    return _pretrained(kind, source, source.folder, config, local_files_only=True, use_safetensors=True, **arguments)


def from_tensors(
    kind: Any, source: ModelSource, config: Any, tensors: Mapping[str, Any], **arguments: Any
) -> tuple[Any, frozenset[str]]:
    """The same from tensors, or slices of safetensors, by the names of a checkpoint; `source` is for messages."""
    return _pretrained(kind, source, None, config, state_dict=dict(tensors), **arguments)


def _pretrained(
    kind: Any, source: ModelSource, folder: Path | None, config: Any, **arguments: Any
) -> tuple[Any, frozenset[str]]:
    try:
        model, info = kind.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **arguments,
        )
    except UNREADABLE as error:
        raise unreadable(source, error) from error
    mismatched = {str(entry[0]) if isinstance(entry, tuple) else str(entry) for entry in info["mismatched_keys"]}
    return model, frozenset(map(str, info["missing_keys"])) | mismatched


def _fresh_modules(fresh: frozenset[str]) -> set[str]:
    """Poolers that the checkpoint lacks: new like the head, so they belong to it."""
    return {name[: name.index("pooler") + len("pooler")] for name in fresh if ".pooler." in name}


def refuse_missing(section: ModelSection, fresh: frozenset[str], head: tuple[str, ...] = ()) -> None:
    """Raise ModelError where a tensor outside of the head is among those that the checkpoint did not fill."""
    missing = sorted(name for name in fresh if not is_inside(name, head))
    if missing:
        raise ModelError(
            f"{section.name} lacks {len(missing)} weights of a model for {section.task} ({missing[0]} …), which would "
            f"be random numbers: use a complete checkpoint."
        )


def _check_image_size(section: ModelSection, model: nn.Module, device: torch.device) -> None:
    blank = torch.zeros(1, 3, section.image_size, section.image_size, device=device)
    try:
        with torch.no_grad():
            model(pixel_values=blank)
    except (ValueError, RuntimeError) as error:
        wanted = getattr(model.config, "image_size", "another size")
        raise ModelError(
            f"{section.name} cannot read images of {section.image_size} pixels: set model.image_size = {wanted}."
        ) from error


def unreadable(source: ModelSource, error: Exception) -> ModelError:
    """What is said of files that cannot be read."""
    said = str(error).strip().splitlines() or [type(error).__name__]
    return ModelError(
        f"The model in {source.folder} cannot be read ({said[0][:160].rstrip('.')}): its files are damaged, "
        f"incomplete, or not of a kind that transformers loads without extra code."
    )
