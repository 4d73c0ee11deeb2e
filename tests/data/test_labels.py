"""Labels of every kind become class names, and `max_rows` draws by the seed."""

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from fedtune.data.labels import label_names, labels_of
from fedtune.errors import DataError

Load = Callable[..., datasets.Dataset]
INTEGER = datasets.Value("int64")


@pytest.mark.parametrize(
    ("values", "feature", "classes", "names"),
    [
        ([1, 0, None, -1], datasets.ClassLabel(names=["ham", "spam"]), (), ["spam", "ham", None, None]),
        ([1, 0], INTEGER, (), ["1", "0"]),
        ([1, 0, None], INTEGER, ("ham", "spam"), ["spam", "ham", None]),
        (["1", "0"], datasets.Value("string"), ("ham", "spam"), ["spam", "ham"]),
        (["1", "0"], datasets.Value("string"), ("0", "1"), ["1", "0"]),
        ([5, 4], INTEGER, ("ham", "spam"), ["5", "4"]),
        ([1.0, float("nan")], datasets.Value("float64"), (), ["1", None]),
        ([True, False], datasets.Value("bool"), (), ["true", "false"]),
        ([" a ", "", "b"], datasets.Value("string"), (), ["a", None, "b"]),
    ],
)
def test_every_kind_of_label_becomes_a_name(
    values: list[object], feature: object, classes: tuple[str, ...], names: list[str | None]
) -> None:
    assert label_names(values, feature, classes) == names


def numbered(folder: Path, rows: int, classes: int) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"t{i}", "label": i % classes}) for i in range(rows)))
    return path


def test_whole_numbers_are_sorted_by_value(tmp_path: Path, load: Load) -> None:
    assert labels_of(load(numbered(tmp_path, 30, 12))) == tuple(str(i) for i in range(12))


def test_max_rows_draws_by_the_seed_and_keeps_the_order(tmp_path: Path, load: Load) -> None:
    path = numbered(tmp_path, 100, 2)
    first, again, other = (load(path, max_rows=10, seed=seed)["text"][:] for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) == 10
    assert first == sorted(first, key=lambda text: int(text[1:]))
    assert len(load(path, max_rows=1000)) == 100


def test_a_draw_of_one_class_is_not_taken_for_the_classes(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": "t", "label": "b" if i == 50 else "a"}) for i in range(100)))
    with pytest.raises(DataError, match=r"raise data\.max_rows"):
        labels_of(load(path, max_rows=2))
