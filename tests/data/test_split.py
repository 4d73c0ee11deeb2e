"""Divisions depend on the seed, the purpose and the client alone, and lose no row."""

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtune.data.client import client_data
from fedtune.data.encode import encode
from fedtune.data.rows import EncodedRows
from fedtune.data.split import split, split_indices
from fedtune.errors import DataError
from fedtune.models.base import LoadedModel
from fedtune.recipe import DataSection, ModelSection


@given(rows=st.integers(0, 300), fraction=st.floats(0, 0.999), seed=st.integers(0, 2**40), client=st.text(max_size=5))
def test_a_division_is_complete_and_repeatable(rows: int, fraction: float, seed: int, client: str) -> None:
    kept, held = split_indices(rows, fraction, seed=seed, purpose="p", client=client)
    assert sorted(kept + held) == list(range(rows))
    assert kept == sorted(kept)
    assert held == sorted(held)
    assert (kept, held) == split_indices(rows, fraction, seed=seed, purpose="p", client=client)
    if fraction == 0 or rows < 2:
        assert held == []
    else:
        assert 1 <= len(held) < rows
        assert abs(len(held) - rows * fraction) <= 1


def test_seed_purpose_and_client_each_change_the_division() -> None:
    usual = {"seed": 0, "purpose": "p", "client": "c"}
    drawn = [
        split_indices(100, 0.3, **{**usual, **other}) for other in ({}, {"seed": 1}, {"purpose": "q"}, {"client": "d"})
    ]  # type: ignore[arg-type]
    assert len({tuple(held) for _, held in drawn}) == 4


def rows_of(bert: LoadedModel, count: int) -> EncodedRows:
    table = datasets.Dataset.from_dict({"text": ["film"] * count, "label": ["negative"] * count})
    return encode(table, bert, ModelSection(name="any", labels=("negative", "positive")))


def test_a_table_and_its_encoded_rows_are_divided_alike(bert: LoadedModel) -> None:
    numbers = datasets.Dataset.from_dict({"n": list(range(50))})
    kept, held = split(numbers, 0.2, seed=3)
    assert (kept["n"][:], held["n"][:]) == split_indices(50, 0.2, seed=3, purpose="test-split")
    kept_rows, held_rows = split(rows_of(bert, 50), 0.2, seed=3)
    assert (len(kept_rows), len(held_rows)) == (40, 10)


def test_a_client_holds_rows_out_and_counts_its_labels(bert: LoadedModel) -> None:
    data = client_data(rows_of(bert, 10), DataSection(holdout_fraction=0.3), seed=0, client="client-0")
    assert len(data.train) == 7
    assert data.holdout is not None
    assert len(data.holdout) == 3
    assert data.notes["labels"] == {"negative": 10, "positive": 0}
    assert data.notes["train_rows"] == 7


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_a_client_with_one_row_learns_from_it(fraction: float, bert: LoadedModel) -> None:
    data = client_data(rows_of(bert, 1), DataSection(holdout_fraction=fraction), seed=0, client="c")
    assert len(data.train) == 1
    assert data.holdout is None


def test_a_client_without_rows_is_refused(bert: LoadedModel) -> None:
    with pytest.raises(DataError, match="client c holds no rows"):
        client_data(rows_of(bert, 0), DataSection(), seed=0, client="c")
