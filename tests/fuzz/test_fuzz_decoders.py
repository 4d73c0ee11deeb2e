"""The fuzzer's corpus, decoded again: every input is refused or gives symbols, and there are inputs of both kinds."""

from pathlib import Path

import pytest

from tests.fuzz.decoders import CODERS, asks_for, one_input

FILES = sorted((Path(__file__).parent / "corpus" / "decoders").iterdir())


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_an_input_is_decoded_or_refused(path):
    assert isinstance(one_input(path.read_bytes()), bool)


@pytest.mark.parametrize("trusting", [False, True], ids=["checked", "trusting"])
@pytest.mark.parametrize("coder", range(len(CODERS)), ids=[coder.name for coder in CODERS])
def test_the_corpus_reaches_both_ends_of_every_decoder(coder, trusting):
    inputs = [data for data in map(Path.read_bytes, FILES) if asks_for(data) == (coder, trusting)]
    assert {one_input(data) for data in inputs} == {True, False}
