"""One input of the fuzzer: a stream that anybody could have sent, and what a lossless coder may make of it."""

from unittest import mock

import numpy as np
import torch

from fedtune.compression import STAGES
from fedtune.compression.base import Form
from fedtune.compression.stream import Reader
from fedtune.errors import MalformedMessage
from fedtune.recipe.compression import CompressionSection

CODERS = [STAGES[name](CompressionSection()) for name in ("entropy", "rice", "bitmask")]
HEAD = 3
TRUSTING = 0x80
"""In the first byte: decode as if the checksum were right, as whoever makes up a stream can see to."""


def one_input(data):
    """Decodes `data`: a byte for the coder and the checksum, two for the number of symbols, then the stream.

    True where symbols came of it, which then must have the tensor's form and survive being sent again; False where it
    was refused. Anything else that happens is a defect.
    """
    if len(data) < HEAD:
        return False
    position, trusting = asks_for(data)
    coder = CODERS[position]
    form = Form((int.from_bytes(data[1:HEAD], "little"),), torch.int8)
    stream = np.frombuffer(data, np.uint8)[HEAD:].copy()
    if not len(stream) <= coder.forms({"w": form})["w"].shape[0]:
        return False
    try:
        symbols = decode(coder, stream, form, trusting=trusting)
    except MalformedMessage:
        return False
    assert symbols.dtype == np.int8
    assert symbols.shape == form.shape
    assert np.array_equal(coder.unpack(coder.pack(symbols), form), symbols)
    return True


def asks_for(data):
    """The coder's position in CODERS, and whether its checksum is taken to be right."""
    return (data[0] & ~TRUSTING) % len(CODERS), bool(data[0] & TRUSTING)


def decode(coder, stream, form, *, trusting):
    """The symbols, of any checksum where `trusting`."""
    if not trusting:
        return coder.unpack(stream, form)
    with mock.patch.object(Reader, "verify", _only_the_end):
        return coder.unpack(stream, form)


def _only_the_end(reader, decoded):
    reader.end()
