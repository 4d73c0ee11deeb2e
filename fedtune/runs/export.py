"""From a run's checkpoint to files that others load: a PEFT adapter, or the base model with it folded in."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from fedtune.adapters.saved import REPLACED_CONFIG
from fedtune.errors import RunError
from fedtune.recipe import Recipe, TrainingSection
from fedtune.recipe.rules_aggregation import PERSONAL
from fedtune.runs.atomic import TEMPORARY_PREFIX, storage_errors
from fedtune.runs.checkpoint import Checkpoint, remove_folder
from fedtune.runs.folder import RunFolder
from fedtune.runs.kept import ABOUT, OWN, default_folder, newest_round, read_about, read_state, recipe_of
from fedtune.runs.world import world_of
from fedtune.split.joined import joined
from fedtune.training.resident import Resident

Format = Literal["peft", "merged"]

_MARKS = ("adapter_config.json", "config.json", REPLACED_CONFIG)
"""A folder with one of these was exported before, and may be replaced when that is asked for."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written where."""

    path: Path
    round: int
    format: Format


def export(
    folder: RunFolder, to: Path, *, checkpoint: str = "", format_: Format = "peft", force: bool = False
) -> Exported:
    """Write a checkpoint's adapter, or the merged model with its tokenizer or image settings, as the folder `to`.

    `checkpoint` is `best`, `latest` or a round; empty takes the best one, or the latest where none was evaluated.
    Raises RunError where `to` is taken, the checkpoint is damaged or the disk is full; ModelError where the base
    model is not the one that the run trained on.
    """
    _refuse_own_adapters(folder)
    _refuse_taken(to, force=force)
    chosen = folder.checkpoints.load(checkpoint or ("best" if folder.checkpoints.best() else "latest"))
    return _write(_load(folder, chosen), chosen.round, to, format_)


def export_kept(folder: Path, to: Path, *, format_: Format = "peft", force: bool = False) -> Exported:
    """Write the adapter that one client keeps to itself (FedSA-LoRA), from where the client keeps it.

    Raises RunError where `folder` holds none or `to` is taken; ModelError where the base model is another one.
    """
    _refuse_taken(to, force=force)
    round_ = newest_round(folder)
    own = {name.removeprefix(OWN): t for name, t in read_state(folder, round_).items() if name.startswith(OWN)}
    if not own:
        raise RunError(f"{folder} holds what a client remembers of a run, and no adapter of its own; export the run")
    resident = _build(recipe_of(folder), str(read_about(folder).get("model_fingerprint", "")), folder)
    resident.attached.load(own)
    return _write(resident, round_, to, format_)


def _refuse_own_adapters(folder: RunFolder) -> None:
    if folder.recipe.aggregation.scheme not in PERSONAL:
        return
    kept = sorted(path.parent for path in folder.path.glob(f"clients/*/*/{ABOUT}"))
    example = kept[0] if kept else f"{default_folder()}/RUN/CLIENT (on the client's machine)"
    raise RunError(
        f'aggregation.scheme = "{folder.recipe.aggregation.scheme}" has no global adapter: each client keeps its own; '
        f"export one from where the client keeps it, as in: fedtune export {example} --to adapter"
    )


def _write(resident: Resident, round_: int, to: Path, format_: Format) -> Exported:
    writers = {"peft": _write_adapter, "merged": _write_merged}
    with storage_errors(to):
        to.parent.mkdir(parents=True, exist_ok=True)
        part = to.with_name(TEMPORARY_PREFIX + to.name)
        shutil.rmtree(part, ignore_errors=True)
        try:
            writers[format_](resident, part)
            remove_folder(to)
            os.replace(part, to)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return Exported(to, round_, format_)


def _refuse_taken(to: Path, *, force: bool) -> None:
    if not to.exists() or (to.is_dir() and not any(to.iterdir())):
        return
    if not force:
        raise RunError(f"{to} exists; choose another --to, or replace it by --force")
    if not any((to / mark).is_file() for mark in _MARKS):
        raise RunError(f"{to} holds no exported adapter or model, so --force leaves it alone; choose another --to")


def _load(folder: RunFolder, checkpoint: Checkpoint) -> Resident:
    resident = _build(folder.recipe, folder.info.model_fingerprint, folder.path)
    if checkpoint.shared:
        resident.attached.load_shared(checkpoint.shared)
    resident.attached.shift_to(world_of(checkpoint).shift)
    resident.attached.load(checkpoint.state)
    return resident


def _build(recipe: Recipe, known: str, path: Path) -> Resident:
    resident = joined(Resident.build(_without_training(recipe)))
    if known and resident.loaded.fingerprint != known:
        raise RunError(
            f"{recipe.model.name} is not the model that {path} was trained on (fingerprint "
            f"{resident.loaded.fingerprint[:8]}, the run's is {known[:8]}); put the old one back"
        )
    return resident


def _without_training(recipe: Recipe) -> Recipe:
    """The recipe on the CPU, with nothing that only serves training; a base in 4 bits needs its GPU."""
    device = "auto" if recipe.model.quantization == "nf4" else "cpu"
    return recipe.model_copy(update={"training": TrainingSection(device=device)})


def _write_adapter(resident: Resident, folder: Path) -> None:
    resident.attached.save(folder, base=resident.loaded.source)


def _write_merged(resident: Resident, folder: Path) -> None:
    # Every Hugging Face model has save_pretrained; torch's Module, which the contract names, has not.
    cast("Any", resident.attached.merged()).save_pretrained(folder)
    processor = resident.loaded.processor
    if hasattr(processor, "save_pretrained"):
        processor.save_pretrained(folder)
    else:
        (folder / "preprocessor_config.json").write_text(json.dumps(_image_settings(processor), indent=2))


def _image_settings(transform: Any) -> dict[str, Any]:
    """What a transformers image processor needs to do the same as our transform."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": transform.size, "width": transform.size},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(transform.mean),
        "image_std": list(transform.std),
    }
