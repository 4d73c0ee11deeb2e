"""Rated sentences of the VADER paper (Hutto and Gilbert, ICWSM 2014): films, tweets and products.

Each line is an identifier, the mean rating of at least twenty readers from -4 to 4, and the sentence.
Sentences rated within half a point of neutral are left out; the rest are `negative` or `positive`.
"""

import tarfile
from pathlib import Path

from fedtune.data.packaged.about import About, find_file, write_packaged

NEUTRAL_WITHIN = 0.5
LABELS = ("negative", "positive")
LICENCE = "MIT (package vaderSentiment); sentences quoted from third parties for research"


def convert_movie_reviews(unpacked: Path, out: Path) -> None:
    """Sentences of film reviews from rottentomatoes.com; columns `text`, `label`."""
    rows = _rated_sentences(unpacked, "movieReviewSnippets_GroundTruth.txt")
    about = About("sentences of film reviews", LICENCE, "sequence-classification", ("text", "label"), LABELS)
    write_packaged(out, about, {name: rows[name] for name in about.columns})


def convert_tweets(unpacked: Path, out: Path) -> None:
    """Tweet-like texts; columns `text`, `label`."""
    rows = _rated_sentences(unpacked, "tweets_GroundTruth.txt")
    about = About("tweets", LICENCE, "sequence-classification", ("text", "label"), LABELS)
    write_packaged(out, about, {name: rows[name] for name in about.columns})


def convert_product_reviews(unpacked: Path, out: Path) -> None:
    """Sentences of product reviews; columns `text`, `label`, and `review`, which sentences of one customer share."""
    rows = _rated_sentences(unpacked, "amazonReviewSnippets_GroundTruth.txt")
    columns = ("text", "label", "review")
    about = About("sentences of product reviews", LICENCE, "sequence-classification", columns, LABELS, "review")
    write_packaged(out, about, rows)


def _rated_sentences(unpacked: Path, name: str) -> dict[str, list[str]]:
    archive = find_file(unpacked, "additional_resources", "hutto_ICWSM_2014.tar.gz")
    with tarfile.open(archive) as tar:
        member = tar.extractfile(f"hutto_ICWSM_2014/{name}")
        raw = member.read() if member else b""
    rows: dict[str, list[str]] = {"text": [], "label": [], "review": []}
    for line in _decoded(raw).strip().split("\n"):  # not splitlines: U+0085 and its kin may occur in a sentence
        identifier, rating, text = line.split("\t", 2)
        if abs(float(rating)) > NEUTRAL_WITHIN:
            rows["text"].append(text.strip())
            rows["label"].append(LABELS[float(rating) > 0])
            rows["review"].append(identifier.partition("_")[0])
    return rows


def _decoded(raw: bytes) -> str:
    """UTF-8 where it is; the files of some releases are Latin-1."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")
