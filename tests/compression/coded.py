"""What the tests of the lossless coders share: symbols, streams, and the entropy that both are measured by."""

import numpy as np
import torch
from hypothesis import strategies as st

from fedtune.compression import STAGES
from fedtune.compression.base import Form
from fedtune.recipe.compression import CompressionSection

CODERS = ["entropy", "rice", "bitmask"]
DENSITIES = [0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5]
MILLION = 10**6


def coder(name):
    """A coder by its name."""
    return STAGES[name](CompressionSection())


def form_of(count):
    """What a decoder is told of `count` symbols."""
    return Form((count,), torch.int8)


def stream_of(name, symbols):
    """The stream of (n,) symbols, as an array."""
    return coder(name).encode({"w": torch.from_numpy(symbols)}, seed=0)["w"].numpy()


def decoded(name, stream, count):
    """The symbols of a stream."""
    tensors = {"w": torch.from_numpy(np.array(stream, np.uint8))}
    return coder(name).decode(tensors, {"w": form_of(count)}, seed=0)["w"].numpy()


def ternary(count, density, seed=0, positive=0.5):
    """Independent symbols, this share of them not zero, and `positive` of those 1."""
    draw = np.random.default_rng(seed)
    signs = np.where(draw.random(count) < positive, 1, -1)
    return np.where(draw.random(count) < density, signs, 0).astype(np.int8)


def entropy_bytes(symbols):
    """The entropy of the symbols' own counts, float64."""
    counts = np.unique(symbols, return_counts=True)[1]
    return float((counts * np.log2(len(symbols) / counts)).sum()) / 8


def arrays(*alphabet):
    """Symbols of an alphabet: independent, in runs, all alike, none."""
    symbol = st.sampled_from(alphabet)
    runs = st.lists(st.tuples(symbol, st.integers(1, 90)), max_size=12)
    return st.one_of(
        st.lists(symbol, max_size=40).map(lambda found: np.array(found, np.int8)),
        runs.map(lambda found: np.concatenate([np.zeros(0, np.int8), *(np.full(n, s, np.int8) for s, n in found)])),
        st.builds(
            lambda n, seed, p: np.random.default_rng(seed).choice(
                np.array(alphabet, np.int8), n, p=_steep(p, alphabet)
            ),
            st.integers(0, 3000),
            st.integers(0, 99),
            st.sampled_from([0.01, 0.3, 1.0]),
        ),
    )


def _steep(ratio, alphabet):
    """Probabilities that fall by `ratio` from the symbol nearest zero."""
    order = np.argsort(np.argsort(np.abs(np.array(alphabet)), kind="stable"))
    weights = np.maximum(float(ratio) ** order, 1e-9)
    return weights / weights.sum()
