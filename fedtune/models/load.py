"""Loads a base model for a task: frozen, in eval mode, with a head that starts the same everywhere."""

from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from fedtune.errors import ModelError
from fedtune.models.base import LoadedModel
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
    quantised = nf4_arguments(device) if section.quantization == "nf4" else {}
    with quiet_transformers(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        config = _load_config(source)
        check_task(section, config)
        model, fresh = _load_weights(section, source, config, quantised)
        head = tuple(sorted({*head_modules(model, section.task), *_fresh_modules(fresh)}))
        _refuse_missing(section, fresh, head)
        initialise_head(model, tuple(sorted(fresh)), seed)
        processor = load_processor(section, source.folder, model)
    model.requires_grad_(False)
    model.eval()
    if not quantised:
        model.to(device)
    if TASKS[section.task].reads == "images":
        _check_image_size(section, model, device)
    return LoadedModel(model, processor, fingerprint(model, head), head, source.name)


def _load_config(source: ModelSource) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source.folder, local_files_only=True, trust_remote_code=False)
    except UNREADABLE as error:
        raise _unreadable(source, error) from error


def _load_weights(
    section: ModelSection, source: ModelSource, config: Any, quantised: dict[str, Any]
) -> tuple[Any, frozenset[str]]:
    """The model, and the names of the parameters that the checkpoint did not fill."""
    for field, value in label_fields(section, config).items():
        setattr(config, field, value)
    try:
        model, info = auto_class(section.task).from_pretrained(
            source.folder,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **quantised,
        )
    except UNREADABLE as error:
        raise _unreadable(source, error) from error
    mismatched = {str(entry[0]) if isinstance(entry, tuple) else str(entry) for entry in info["mismatched_keys"]}
    return model, frozenset(map(str, info["missing_keys"])) | mismatched


def _fresh_modules(fresh: frozenset[str]) -> set[str]:
    """Poolers that the checkpoint lacks: new like the head, so they belong to it."""
    return {name[: name.index("pooler") + len("pooler")] for name in fresh if ".pooler." in name}


def _refuse_missing(section: ModelSection, fresh: frozenset[str], head: tuple[str, ...]) -> None:
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


def _unreadable(source: ModelSource, error: Exception) -> ModelError:
    said = str(error).strip().splitlines() or [type(error).__name__]
    return ModelError(
        f"The model in {source.folder} cannot be read ({said[0][:160].rstrip('.')}): its files are damaged, "
        f"incomplete, or not of a kind that transformers loads without extra code."
    )
