"""Whoever made a compressed adapter, and whatever became of it on the way: one sentence."""

import hashlib
import json
import shutil
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from fedtune.adapters.saved import CARD, COMPRESSED, CONFIG
from fedtune.errors import AdapterError
from fedtune.experts.compressed import SCALE, SYMBOLS, compress, read_compressed
from fedtune.experts.expert import read_plain
from fedtune.experts.header import MOST_NUMBERS
from fedtune.recipe.compression import CompressionSection
from tests.experts.experts_examples import change_config, make_adapter


@pytest.fixture(scope="module")
def small(tiny_bert_folder, tmp_path_factory):
    """A compressed adapter."""
    folder = tmp_path_factory.mktemp("hostile")
    lora = make_adapter(folder / "adapter", tiny_bert_folder)
    compress(read_plain(lora), CompressionSection(density=0.1)).write(folder / "small")
    return folder / "small"


@pytest.fixture
def copied(small, tmp_path):
    return shutil.copytree(small, tmp_path / "small")


def refused(folder, sentence="."):
    with pytest.raises(AdapterError, match=sentence) as caught:
        read_compressed(folder).expert()
    assert "\n" not in str(caught.value)


def header_bytes(raw):
    return 8 + struct.unpack("<Q", raw[:8])[0]


def test_every_truncation_is_refused(copied):
    raw = (copied / COMPRESSED).read_bytes()
    for length in [*range(0, header_bytes(raw), 37), *range(header_bytes(raw), len(raw), 11), len(raw) - 1]:
        (copied / COMPRESSED).write_bytes(raw[:length])
        refused(copied)


def test_every_flipped_bit_of_the_header_is_refused(copied):
    raw = (copied / COMPRESSED).read_bytes()
    for place in range(header_bytes(raw)):
        changed = bytearray(raw)
        changed[place] ^= 1 << (place % 8)
        (copied / COMPRESSED).write_bytes(changed)
        refused(copied)


@settings(max_examples=60)
@given(st.data())
def test_a_flipped_bit_of_the_tensors_or_the_config_is_refused(small, tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "flipped"
    shutil.copytree(small, folder, dirs_exist_ok=True)
    path = folder / data.draw(st.sampled_from([COMPRESSED, CONFIG]))
    raw = bytearray(path.read_bytes())
    place = data.draw(st.integers(header_bytes(raw) if path.name == COMPRESSED else 0, len(raw) - 1))
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    refused(folder)


def test_the_card_is_nobodys_business(copied):
    (copied / CARD).unlink()
    assert read_compressed(copied).expert().tensors


def forged(folder, change_texts=lambda texts: texts, change_tensors=lambda tensors: tensors):
    """A file by somebody who knows how to make its checksum."""
    found = read_compressed(folder)
    tensors = change_tensors(dict(found.tensors))
    texts = change_texts(found.header.texts(tensors))
    texts.pop("sha256")
    from fedtune.experts import header

    texts["sha256"] = header._checksum(texts, tensors)
    save_file(tensors, folder / COMPRESSED, metadata=texts)


def rewritten(**fields):
    return lambda texts: {**texts, **{name: json.dumps(value) for name, value in fields.items()}}


def larger(texts):
    """The tensors of a layer that is as wide as half of all that may be."""
    coded = json.loads(texts["coded"])
    wide = {
        name: [dtype, [4, MOST_NUMBERS // 8] if "lora_A" in name else shape] for name, (dtype, shape) in coded.items()
    }
    return {**texts, "coded": json.dumps(wide)}


def of_another_rank(texts):
    coded = json.loads(texts["coded"])
    name = next(name for name in coded if "lora_B" in name)
    return {**texts, "coded": json.dumps({**coded, name: ["F32", [32, 5]]})}


TEXTS = {
    "another format": (lambda texts: {**texts, "format": "x"}, "is no compressed adapter"),
    "another version": (lambda texts: {**texts, "version": "2"}, "is of version '2'"),
    "a field more": (lambda texts: {**texts, "more": "1"}, "metadata cannot be read"),
    "a field less": (lambda texts: {n: t for n, t in texts.items() if n != "alpha"}, "metadata cannot be read"),
    "no number": (lambda texts: {**texts, "density": "much"}, "metadata cannot be read"),
    "no density": (rewritten(density=0.0), "metadata cannot be read"),
    "nested": (lambda texts: {**texts, "coded": "[" * 100_000}, "metadata cannot be read"),
    "negative": (rewritten(coded={"a": ["F32", [-1]]}), "metadata cannot be read"),
    "more than all": (larger, "more than 2147483648 numbers"),
    "another rank": (of_another_rank, "has not the rank"),
    "nothing": (rewritten(coded={}), "contradict themselves"),
    "another reference": (rewritten(reference=1.0), "contradict themselves"),
    "another density": (rewritten(density=0.01), "is damaged"),
    "another coder": (lambda texts: {**texts, "coder": "bitmask"}, "is damaged"),
    "other tensors": (rewritten(whole={"x": ["F32", [1]]}), "has not the tensors"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_forged_metadata_are_one_sentence(copied, name):
    change, sentence = TEXTS[name]
    forged(copied, change_texts=change)
    refused(copied, sentence)


HEAD = "whole.base_model.model.classifier.bias"
TENSORS = {
    "NaN scale": (lambda t: {**t, SCALE: torch.full((1,), float("nan"))}, "holds NaN"),
    "two scales": (lambda t: {**t, SCALE: torch.ones(2)}, "is damaged"),
    "a scale of integers": (lambda t: {**t, SCALE: torch.ones(1, dtype=torch.int32)}, "another dtype"),
    "no stream": (lambda t: {n: x for n, x in t.items() if n != SYMBOLS}, "has not the tensors"),
    "one more": (lambda t: {**t, "more": torch.ones(1)}, "has not the tensors"),
    "NaN in the head": (lambda t: {**t, HEAD: torch.full((3,), float("inf"))}, "holds NaN"),
    "integers in the head": (lambda t: {**t, HEAD: torch.ones(3, dtype=torch.int64)}, "no real numbers"),
    "a wider head": (lambda t: {**t, HEAD: torch.ones(4)}, "has not the tensors"),
    "half a stream": (lambda t: {**t, SYMBOLS: t[SYMBOLS][: len(t[SYMBOLS]) // 2].clone()}, "is damaged"),
    "an empty stream": (lambda t: {**t, SYMBOLS: t[SYMBOLS][:0].clone()}, "is damaged"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_forged_tensors_are_one_sentence(copied, name):
    change, sentence = TENSORS[name]
    forged(copied, change_tensors=change)
    refused(copied, sentence)


def test_it_belongs_to_the_config_that_it_was_made_for(copied):
    change_config(copied, lora_alpha=600.0)
    refused(copied, "was not made for the adapter_config.json beside it")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"{", "cannot be read"), (b"[" * 100_000, "cannot be read"), (b" " * (1 << 21), "more than"), (None, "holds no")],
)
def test_a_config_that_is_none_is_one_sentence(copied, content, sentence):
    (copied / CONFIG).unlink() if content is None else (copied / CONFIG).write_bytes(content)
    refused(copied, sentence)


def test_the_checksum_is_over_all_that_is_said(copied):
    """As the documentation describes it, computed anew."""
    found = read_compressed(copied)
    texts = found.header.texts(found.tensors)
    hasher = hashlib.sha256()
    for name in sorted(found.tensors):
        tensor = found.tensors[name]
        hasher.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        hasher.update(tensor.numpy().tobytes())
    said = json.dumps({n: t for n, t in texts.items() if n != "sha256"}, sort_keys=True) + hasher.hexdigest()
    assert texts["sha256"] == hashlib.sha256(said.encode()).hexdigest()
