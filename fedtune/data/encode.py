"""A loaded table becomes encoded rows for one model: tokenised once, held compactly, shared by all clients."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import numpy as np

from fedtune.data.answers import token_pairs
from fedtune.data.labels import check_labels, in_order
from fedtune.data.ragged import Ints, Ragged
from fedtune.data.rows import EncodedRows
from fedtune.data.store import AnswerStore, ImageStore, Store, TextStore
from fedtune.models.base import LoadedModel
from fedtune.recipe.model import ModelSection, Task

log = logging.getLogger(__name__)

Encoded = tuple[Store, int]
"""A store, and how many of its rows were cut to `max_length`."""


def encode(table: datasets.Dataset, loaded: LoadedModel, section: ModelSection) -> EncodedRows:
    """The rows of a table from `load_table`, in its order, as batches for `loaded.model`.

    Classes are numbered by `section.labels`, or by the sorted names of the table where it has none. `notes` of the
    result: `rows`, `cut` (rows longer than `max_length`), `labels` (rows of each class) and `left_out` where rows
    were. Raises DataError for a label that is no class.
    """
    labels = _classes(table, section)
    store, cut = ENCODERS[section.task](table, loaded, section, labels)
    notes: dict[str, Any] = {"rows": len(table), "cut": cut}
    if cut:
        log.warning(
            "%d of %d rows are longer than model.max_length = %d and are cut", cut, len(table), section.max_length
        )
    if table.info.description:
        notes["left_out"] = table.info.description
    rows = EncodedRows(store, labels=labels, notes=notes)
    return EncodedRows(store, labels=labels, notes={**notes, "labels": rows.label_counts()})


def _classes(table: datasets.Dataset, section: ModelSection) -> tuple[str, ...]:
    if section.task == "causal-lm":
        return ()
    if section.labels:
        check_labels(table["label"][:], section.labels)
    return section.labels or in_order(table["label"][:])


def _text(table: datasets.Dataset, loaded: LoadedModel, section: ModelSection, labels: Sequence[str]) -> Encoded:
    texts = table["text"][:]
    if not texts:
        return TextStore(Ragged([]), _numbered(table, labels), _pad_id(loaded)), 0
    encoded = loaded.processor(
        texts,
        truncation=True,
        max_length=section.max_length,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    store = TextStore(Ragged(encoded["input_ids"]), _numbered(table, labels), _pad_id(loaded))
    return store, _cut(encoded, texts, loaded, section.max_length)


def _cut(encoded: Any, texts: list[str], loaded: LoadedModel, max_length: int) -> int:
    """How many texts the tokenizer has cut; one written in Python does not say, so it is asked for the whole."""
    if encoded.encodings is not None:
        return sum(bool(encoding.overflowing) for encoding in encoded.encodings)
    return sum(len(ids) > max_length for ids in loaded.processor(texts, verbose=False)["input_ids"])


def _answers(table: datasets.Dataset, loaded: LoadedModel, section: ModelSection, _labels: Sequence[str]) -> Encoded:
    pairs = token_pairs(table["prompt"][:], table["answer"][:], loaded.processor, section.max_length)
    starts = np.array([pair.answer_start for pair in pairs], dtype=np.int64)
    store = AnswerStore(Ragged([pair.ids for pair in pairs]), starts, _pad_id(loaded))
    return store, sum(pair.cut for pair in pairs)


def _images(table: datasets.Dataset, loaded: LoadedModel, _section: ModelSection, labels: Sequence[str]) -> Encoded:
    return ImageStore(table["image"][:], _numbered(table, labels), loaded.processor), 0


ENCODERS: dict[Task, Callable[[datasets.Dataset, LoadedModel, ModelSection, Sequence[str]], Encoded]] = {
    "sequence-classification": _text,
    "causal-lm": _answers,
    "image-classification": _images,
}


def _numbered(table: datasets.Dataset, labels: Sequence[str]) -> Ints:
    positions = {name: position for position, name in enumerate(labels)}
    return np.array([positions[name] for name in table["label"][:]], dtype=np.int64)


def _pad_id(loaded: LoadedModel) -> int:
    """The tokenizer's pad token, or the end token; what it is does not matter behind the attention mask."""
    for candidate in (loaded.processor.pad_token_id, loaded.processor.eos_token_id):
        if candidate is not None:
            return int(candidate)
    return 0
