"""Error feedback: nothing is lost, only late; a client that misses rounds keeps what it owes; EF21's copies agree."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.compression import make_pipeline
from fedtune.compression.feedback import feedback_of, keep, target
from fedtune.recipe.compression import CompressionSection
from fedtune.recipe.rules_aggregation import RESTARTING

SHAPES = {"a.R": (6, 6), "head.w": (2, 9)}
SECTIONS = {
    "bf16": CompressionSection(upload=("bf16",)),
    "ternary": CompressionSection(upload=("ternary",), density=0.1),
    "top-k": CompressionSection(upload=("top-k", "fp16"), density=0.2),
    "sign": CompressionSection(upload=("sign",)),
    "int4": CompressionSection(upload=("int4",)),
}


def draw(seed, size=1.0):
    generator = torch.Generator().manual_seed(seed)
    return {name: size * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("name", SECTIONS)
@given(rounds=st.integers(1, 12), seed=st.integers(0, 1000), size=st.sampled_from([1e-6, 1e-2, 10.0]))
def test_what_was_sent_and_what_is_kept_is_the_sum_of_the_deltas(name, rounds, seed, size):
    """Σ sent + e = Σ δ, in double precision: to 1e-13 of the sum of their magnitudes."""
    pipeline, kept = make_pipeline(SECTIONS[name]), {}
    truth = {key: torch.zeros(shape, dtype=torch.float64) for key, shape in SHAPES.items()}
    sent = {key: torch.zeros(shape, dtype=torch.float64) for key, shape in SHAPES.items()}
    moved = 0.0
    for round_ in range(rounds):
        delta = draw(seed + round_, size)
        out = pipeline.decode(pipeline.encode(target(delta, kept, "classic"), seed=round_), SHAPES, seed=round_)
        kept = keep(delta, kept, out, "classic")
        for key in SHAPES:
            truth[key] += delta[key].double()
            sent[key] += out[key].double()
            moved += float(delta[key].abs().sum() + out[key].abs().sum())
    for key in SHAPES:
        assert float((sent[key] + kept[key] - truth[key]).abs().max()) <= 1e-13 * moved


def test_without_feedback_something_is_lost():
    """The property above is worth something: it fails for a codec alone."""
    pipeline = make_pipeline(SECTIONS["ternary"])
    delta = draw(0)
    out = pipeline.decode(pipeline.encode(delta, seed=0), SHAPES, seed=0)
    assert float((out["a.R"] - delta["a.R"]).abs().max()) > 0.1


def test_a_residual_brings_a_constant_delta_across_in_full():
    """A number too small to be kept is sent when enough of it has come together."""
    pipeline, kept = make_pipeline(SECTIONS["ternary"]), {}
    delta = {name: torch.full(shape, 0.01) for name, shape in SHAPES.items()}
    delta["a.R"][0, 0] = 1.0
    total = torch.zeros(6, 6)
    for round_ in range(200):
        out = pipeline.decode(pipeline.encode(target(delta, kept, "classic"), seed=round_), SHAPES, seed=round_)
        kept = keep(delta, kept, out, "classic")
        total += out["a.R"]
    assert total[0, 0] == pytest.approx(200, rel=0.05)
    assert total[1:, 1:].mean() == pytest.approx(2.0, rel=0.25)


@given(rounds=st.integers(1, 30), seed=st.integers(0, 1000))
def test_ef21s_copy_comes_ever_closer_to_a_delta_that_stays(rounds, seed):
    pipeline, copy = make_pipeline(SECTIONS["top-k"]), {}
    delta = draw(seed)
    gap = [sum(float(tensor.double().square().sum()) for tensor in delta.values())]
    for round_ in range(rounds):
        out = pipeline.decode(pipeline.encode(target(delta, copy, "ef21"), seed=round_), SHAPES, seed=round_)
        copy = keep(delta, copy, out, "ef21")
        gap.append(sum(float((delta[name].double() - copy[name]).square().sum()) for name in delta))
    assert all(after <= (1 - 0.2 / 2) * before + 1e-9 for before, after in pairwise(gap))


def test_auto_is_classic_where_it_can_be():
    lossy = CompressionSection(upload=("bf16",))
    assert feedback_of(lossy, "mean", lossless=False) == "classic"
    assert all(feedback_of(lossy, scheme, lossless=False) == "none" for scheme in RESTARTING)
    assert feedback_of(lossy, "mean", lossless=True) == "none"
    assert feedback_of(CompressionSection(upload=("random-k",)), "mean", lossless=False) == "none"
    assert feedback_of(lossy.model_copy(update={"feedback": "none"}), "mean", lossless=False) == "none"
