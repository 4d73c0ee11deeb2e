"""Turns what a recipe calls a model into a local Hugging Face folder: catalogue, package, folder or Hub id."""

import importlib.util
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedtune import catalogue
from fedtune.errors import ModelError

PACKAGE_PREFIX = "package:"
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
"""What is fetched from the Hub: never code, never pickles."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model on this machine."""

    folder: Path
    """Holds `config.json`, safetensors and, for text, the tokenizer."""
    name: str
    """What an exported adapter calls its base model."""


def find_model(name: str, revision: str = "main") -> ModelSource:
    """The local folder of a model named in a recipe; only a Hub id may use the network.

    Raises ModelError where there is no such model, where it was not fetched yet, and where its folder is no
    Hugging Face folder with safetensors.
    """
    source = next(finder for applies, finder in FINDERS if applies(name))(name, revision)
    _check_folder(source)
    return source


def _from_package(name: str, _revision: str) -> ModelSource:
    package, _, inner = name.removeprefix(PACKAGE_PREFIX).partition("/")
    try:
        spec = importlib.util.find_spec(package.replace("-", "_")) if package.isprintable() and package else None
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"{name}: no package {package!r} is installed in this environment; install it with pip.")
    root = Path(next(iter(spec.submodule_search_locations)))
    if inner:
        return ModelSource(root / inner, name)
    found = sorted(path.parent for path in root.rglob("config.json") if _is_model_config(path))
    if len(found) != 1:
        choices = ", ".join(f"{PACKAGE_PREFIX}{package}/{path.relative_to(root).as_posix()}" for path in found[:5])
        raise ModelError(
            f"{name}: the package holds {len(found)} Hugging Face folders"
            + (f"; say which one: {choices}." if found else " (a config.json with a model_type), so it is no model.")
        )
    return ModelSource(found[0], name)


def _from_catalogue(name: str, _revision: str) -> ModelSource:
    return ModelSource(catalogue.locate(name, "model"), name)


def _from_folder(name: str, _revision: str) -> ModelSource:
    return ModelSource(Path(name).expanduser(), name)


def _from_hub(name: str, revision: str) -> ModelSource:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=HUB_FILES, ignore_patterns=["*/*"])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise ModelError(
            f"No folder and no model of the catalogue is called {name!r}, and it could not be had from the Hub at "
            f"revision {revision} ({_first_sentence(error)}): {catalogue.nearest(name, 'model')}"
        ) from error
    return ModelSource(Path(folder), name)


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~", "\\")) or Path(name).is_dir() or not HUB_ID.match(name)


FINDERS: tuple[tuple[Callable[[str], bool], Callable[[str, str], ModelSource]], ...] = (
    (lambda name: name.startswith(PACKAGE_PREFIX), _from_package),
    (lambda name: name in catalogue.names("model"), _from_catalogue),
    (_is_path, _from_folder),
    (lambda _: True, _from_hub),
)
"""Asked in this order: a catalogue name means the same everywhere, whatever folders happen to lie around."""


def _check_folder(source: ModelSource) -> None:
    if not source.folder.is_dir():
        raise ModelError(f"There is no model folder {source.folder}: {catalogue.nearest(source.name, 'model')}")
    if not (source.folder / "config.json").is_file():
        adapter = (source.folder / "adapter_config.json").is_file()
        hint = "it is an adapter; name its base model instead" if adapter else "point to a Hugging Face folder"
        raise ModelError(f"{source.folder} holds no config.json, so it is no model: {hint}.")
    if not any(source.folder.glob("*.safetensors")):
        raise ModelError(
            f"{source.folder} holds no safetensors weights, and pickled ones (.bin, .pt) can run code and are never "
            f"opened: save the model again with save_pretrained."
        )


def _is_model_config(path: Path) -> bool:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(fields, dict) and "model_type" in fields


def _first_sentence(error: Exception) -> str:
    return re.split(r"(?<=[.!?])\s|\n", str(error).strip(), maxsplit=1)[0][:160].rstrip(".")
