"""Every kind of file gives the same table, and nothing of it is copied to disk."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

Load = Callable[..., datasets.Dataset]

ROWS = [
    {"text": "a good film, truly", "label": "positive"},
    {"text": 'dull;\n"long"', "label": "negative"},
    {"text": "schön – 好い", "label": "positive"},
]


def jsonl(path: Path) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n", encoding="utf-8")
    return path


def json_array(path: Path) -> Path:
    path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    return path


def separated(delimiter: str) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        lines = [delimiter.join(("text", "label"))]
        for row in ROWS:
            quoted = '"' + row["text"].replace('"', '""') + '"'
            lines.append(delimiter.join((quoted, row["label"])))
        path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
        return path

    return write


def parquet(path: Path) -> Path:
    table = pa.Table.from_pylist(ROWS)
    labels = table["label"].combine_chunks().dictionary_encode()  # as pandas writes categories
    pq.write_table(table.set_column(1, "label", labels), path)
    return path


def saved(path: Path) -> Path:
    datasets.Dataset.from_list(ROWS).save_to_disk(str(path))
    return path


def saved_splits(path: Path) -> Path:
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(str(path))
    return path


def folder_of_splits(path: Path) -> Path:
    path.mkdir()
    jsonl(path / "train.jsonl")
    return path


KINDS = {
    "rows.jsonl": jsonl,
    "lines.json": jsonl,
    "rows.json": json_array,
    "rows.csv": separated(","),
    "semicolons.csv": separated(";"),
    "rows.tsv": separated("\t"),
    "rows.parquet": parquet,
    "saved": saved,
    "saved_splits": saved_splits,
    "folder": folder_of_splits,
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_source_gives_the_same_rows(name: str, tmp_path: Path, load: Load) -> None:
    table = load(KINDS[name](tmp_path / name))
    assert table.to_list() == ROWS
    assert table.cache_files == []


def test_other_columns_stay_for_a_natural_partition(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"body": f"t{i}", "kind": "ab"[i % 2], "text": 7, "author": f"x{i}"} for i in range(4)]
    path.write_text("\n".join(map(json.dumps, rows)))
    table = load(path, text="body", label="kind")
    assert sorted(table.column_names) == ["author", "label", "text"]
    assert table["text"][:] == ["t0", "t1", "t2", "t3"]


def test_two_columns_may_swap_their_names(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("label,text\nfirst words,a\nother words,b\n")
    table = load(path, text="label", label="text")
    assert table.to_list() == [{"text": "first words", "label": "a"}, {"text": "other words", "label": "b"}]


def test_an_image_folder_has_a_class_a_subfolder(tmp_path: Path, load: Load) -> None:
    for name, colour in (("cat", (255, 0, 0)), ("dog", (0, 0, 255))):
        (tmp_path / name).mkdir()
        Image.new("RGB", (9, 5), colour).save(tmp_path / name / "a.png")
        Image.new("L", (4, 4)).save(tmp_path / name / "b.JPG", format="JPEG")
    (tmp_path / ".git").mkdir()
    table = load(tmp_path, task="image-classification")
    assert table["label"][:] == ["cat", "cat", "dog", "dog"]
    assert table[0]["image"]["path"] == str(tmp_path / "cat" / "a.png")


def test_image_paths_are_relative_to_their_file(tmp_path: Path, load: Load) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "pictures" / "1.png")
    path = tmp_path / "rows.csv"
    path.write_text("image,label\npictures/1.png,a\npictures/1.png,b\n")
    table = load(path, task="image-classification")
    assert table[1]["image"]["path"] == str(tmp_path / "pictures" / "1.png")


def test_saved_images_keep_their_bytes(tmp_path: Path, load: Load) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    images = [Image.new("RGB", (3, 3), (i, i, i)) for i in range(2)]
    table = datasets.Dataset.from_dict({"image": images, "label": [1, 0]}, features=features)
    table.save_to_disk(str(tmp_path / "saved"))
    table.to_parquet(str(tmp_path / "rows.parquet"))
    for source in ("saved", "rows.parquet"):
        loaded = load(tmp_path / source, task="image-classification")
        assert loaded["label"][:] == ["dog", "cat"]
        assert loaded[0]["image"]["bytes"].startswith(b"\x89PNG")


def test_private_rows_are_written_nowhere(tmp_path: Path) -> None:
    """A process that loads, draws and splits private rows leaves no file behind that holds them."""
    home, data = tmp_path / "home", tmp_path / "data"
    home.mkdir()
    data.mkdir()
    secret = "Zanzibar-4711"
    rows = [{"text": f"{secret} {i}", "label": "ab"[i % 2]} for i in range(40)]
    path = data / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    datasets.Dataset.from_list(rows).save_to_disk(str(data / "saved"))
    before = {p: p.stat().st_mtime_ns for p in data.rglob("*")}
    code = (
        "import sys; from fedtune.recipe import *; from fedtune.data.source import load_table\n"
        "from fedtune.data.split import split\n"
        "for source in sys.argv[1:]:\n"
        "    section = DataSection(source=source, max_rows=30)\n"
        "    parts = split(load_table(section, model=ModelSection(name='m'), seed=0), 0.2, seed=0)\n"
        "    print(len(parts[0]), parts[0][0]['text'])\n"
    )
    places = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "FEDTUNE_CACHE", "HF_HOME")
    environment = {**os.environ, **dict.fromkeys(places, str(home)), "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", code, str(path), str(data / "saved")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.count(f"24 {secret}") == 2
    assert done.stderr == ""
    assert [p for p in home.rglob("*") if p.is_file() and secret.encode() in p.read_bytes()] == []
    assert {p: p.stat().st_mtime_ns for p in data.rglob("*")} == before
