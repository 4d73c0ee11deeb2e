"""A recipe's `[data]` section becomes a table with canonical columns, or one sentence that says what is wrong."""

import logging

import datasets
import torch

from fedtune.data.columns import ROLES, TEXT_ROLES, with_roles
from fedtune.data.images import check_images, with_images
from fedtune.data.labels import check_labels, label_names
from fedtune.data.locate import read_source
from fedtune.errors import DataError
from fedtune.recipe.data import DataSection
from fedtune.recipe.model import ModelSection
from fedtune.seeds import generator

log = logging.getLogger(__name__)


def load_table(section: DataSection, *, model: ModelSection, seed: int) -> datasets.Dataset:
    """The rows of `section.source` for the task of `model`, in the order of the source.

    Columns: `text`, `label` (sequence classification), `prompt`, `answer` (causal LM) or `image`, `label` (image
    classification; `image` as {bytes, path}), and every other column of the source. Labels are class names. Rows
    with an empty text, label or image are left out, and `info.description` says how many; of the rest `max_rows`
    are drawn by `seed`.

    Guarantees: rows of local files stay in memory; neither they nor anything derived from them is written to disk.
    Raises DataError with one sentence that says what to change.
    """
    table = with_roles(read_source(section.source, section.split), section, model.task)
    if "image" in ROLES[model.task]:
        table = with_images(table, section.source)
        check_images(table["image"][:])
    if "label" in ROLES[model.task]:
        names = label_names(table["label"][:], table.features["label"], model.labels)
        table = table.remove_columns("label").add_column("label", names, feature=datasets.Value("string"))
    full = _full_rows(table, ROLES[model.task])
    notes = _dropped(len(table), len(full), ROLES[model.task])
    table = table.select(full)
    if "label" in ROLES[model.task]:
        check_labels(table["label"][:], model.labels)
    table = table.select(_drawn(len(table), section.max_rows, seed))
    table.info.description = notes
    return table


def _full_rows(table: datasets.Dataset, roles: tuple[str, ...]) -> list[int]:
    """Rows in which every role holds something."""
    columns = [[_holds(value, role) for value in table[role][:]] for role in roles]
    return [row for row, cells in enumerate(zip(*columns, strict=True)) if all(cells)]


def _holds(value: object, role: str) -> bool:
    return bool(str(value).strip()) and value is not None if role in TEXT_ROLES else value is not None


def _dropped(rows: int, full: int, roles: tuple[str, ...]) -> str:
    if full == 0:
        raise DataError(f"every row has an empty {' or '.join(roles)}: nothing is left to learn from")
    if full == rows:
        return ""
    notes = f"{rows - full} of {rows} rows have an empty {' or '.join(roles)} and are left out"
    log.warning("%s", notes)
    return notes


def _drawn(rows: int, max_rows: int | None, seed: int) -> list[int]:
    if max_rows is None or max_rows >= rows:
        return list(range(rows))
    order = torch.randperm(rows, generator=generator(seed, "max-rows"))[:max_rows]
    return sorted(order.tolist())
