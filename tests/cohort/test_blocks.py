"""Neighbours of a table are computed together on their way into the cache, whoever asks for which of them first."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtune.cohort import blocks
from fedtune.cohort.blocks import SIZE, WholeBatch
from fedtune.cohort.packed import PackedPass
from fedtune.data.ragged import Ragged
from fedtune.data.rows import EncodedRows
from fedtune.data.store import AnswerStore, TextStore
from fedtune.training.resident import Resident
from tests.cohort.adapted import adapted, assert_agree

COUNT = 2 * SIZE + 3


def table(count: int = COUNT, *, answers: bool = False) -> EncodedRows:
    """Texts of 2 to 12 tokens; with `answers` the answer starts anywhere, and every fifth text has none."""
    draw = np.random.default_rng(3)
    texts = [draw.integers(5, 20, draw.integers(2, 13)).tolist() for _ in range(count)]
    if not answers:
        return EncodedRows(TextStore(Ragged(texts), np.arange(count) % 3, pad_id=0))
    starts = np.array([len(text) if row % 5 == 0 else 1 for row, text in enumerate(texts)])
    return EncodedRows(AnswerStore(Ragged(texts), starts, pad_id=0))


def missing(a_pass: PackedPass) -> int:
    """How many rows were asked for in vain."""
    assert a_pass._prefix is not None
    return a_pass._prefix.cache.counts.missing


def told(resident: Resident, section: str, **more: object) -> Resident:
    """The resident with another recipe."""
    changed = getattr(resident.recipe, section).model_copy(update=more)
    return replace(resident, recipe=resident.recipe.model_copy(update={section: changed}))


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_row_brings_its_neighbours(family: str) -> None:
    resident, rows = adapted(family, first=2), table(answers=family == "llama")
    a_pass = PackedPass(resident, None)
    a_pass.logits([(rows, [1])])
    assert missing(a_pass) == 1
    a_pass.logits([(rows, list(range(SIZE)))])
    assert missing(a_pass) == 1
    a_pass.logits([(rows, [COUNT - 1, 1, SIZE + 1])])
    assert missing(a_pass) == 3
    assert_agree(resident, a_pass, [(rows, list(range(COUNT)))])


@settings(max_examples=15)
@given(st.permutations(range(COUNT)), st.integers(1, COUNT - 1))
def test_a_rows_bits_do_not_depend_on_who_was_asked_for_before(order: list[int], cut: int) -> None:
    resident, rows = adapted("bert", first=2), table()
    one, other = PackedPass(resident, None), PackedPass(resident, None)
    one.logits([(rows, order[:cut])])
    one.logits([(rows, order[cut:])])
    everything = [(rows, list(range(COUNT)))]
    assert torch.equal(one.logits(everything).logits, other.logits(everything).logits)


def test_two_views_of_a_table_have_each_their_own_neighbours() -> None:
    resident, rows = adapted("bert", first=2), table()
    a_pass, view = PackedPass(resident, None), rows.subset([4, 2, 0])
    a_pass.logits([(rows, [0])])
    assert_agree(resident, a_pass, [(view, [0, 1, 2]), (rows, [0, 2, 4])])
    assert missing(a_pass) == 1 + 3


@pytest.mark.parametrize(("section", "more"), [("training", {"steps": 2}), ("privacy", {"unit": "example"})])
def test_where_a_round_reads_some_rows_alone_these_are_computed_alone(section: str, more: dict[str, object]) -> None:
    a_pass, rows = PackedPass(told(adapted("bert", first=2), section, **more), None), table()
    a_pass.logits([(rows, [1])])
    a_pass.logits([(rows, [0, 1, 2])])
    assert missing(a_pass) == 3


def test_clients_that_hold_the_same_texts_share_them() -> None:
    resident, rows = adapted("bert", first=2), table()
    sampled = resident.recipe.data.partition.model_copy(update={"scheme": "sampled"})
    a_pass, view = PackedPass(told(resident, "data", partition=sampled), None), rows.subset([4, 2, 0])
    a_pass.logits([(rows, [0, 2, 4])])
    assert_agree(resident, a_pass, [(view, [0, 1, 2]), (rows, [0])])
    assert missing(a_pass) == 3


def test_a_large_table_is_not_cut_into_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LARGEST", COUNT - 1)
    a_pass, rows = PackedPass(adapted("bert", first=2), None), table()
    a_pass.logits([(rows, [0]), (rows.subset(range(COUNT - 1)), [0])])
    a_pass.logits([(rows, [1]), (rows.subset(range(COUNT - 1)), [1])])
    assert missing(a_pass) == 3


def test_a_table_of_more_tokens_than_surely_find_room_is_not_cut_into_neighbours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resident, rows = adapted("bert", first=2), table()
    numbers = resident.attached.model.config.hidden_size * 4  # hidden states, frozen queries, keys and values
    for more, expected in ((0, 1), (-1, 2)):
        monkeypatch.setattr(blocks, "PASSING_BYTES", 4 * numbers * (int(rows.lengths.sum()) + more))
        a_pass = PackedPass(resident, None)
        a_pass.logits([(rows, [0])])
        a_pass.logits([(rows, [1])])
        assert missing(a_pass) == expected


def test_a_batch_is_named_by_what_it_says() -> None:
    rows = table()
    one, same, other = (WholeBatch(rows.batch(some)) for some in ([1, 2], [1, 2], [2, 1]))
    assert one.digest == same.digest != other.digest
    assert one.batch([1])["labels"].tolist() == rows.batch([2])["labels"].tolist()
