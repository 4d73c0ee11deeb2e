"""What every stage and every mix of them keeps: the forms are what is made, shapes come back, nonsense is refused."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from fedtune.compression import STAGES
from fedtune.compression.base import forms_of
from fedtune.errors import MalformedMessage
from fedtune.seeds import derive_seed
from fedtune.state import digest, shapes_of
from tests.compression.updates import flat, norm, normal, pipeline_of, there_and_back, updates

TERNARY_ONLY = {"rice", "bitmask"}
"""They refuse symbols of more than three values, on the client, by RecipeError."""


def readable(names):
    """Does no coder of three values come after symbols of more?"""
    more = [position for position, name in enumerate(names) if name in {"int8", "int4"}]
    return not any(name in TERNARY_ONLY for name in names[min(more, default=len(names)) :])


mixes = st.lists(st.sampled_from(sorted(STAGES)), min_size=1, max_size=3).filter(readable)
keys = st.fixed_dictionaries(
    {
        "density": st.sampled_from([0.05, 0.3, 1.0]),
        "threshold": st.sampled_from(["global", "tensor"]),
        "scale": st.sampled_from(["least-squares", "sigma"]),
        "block": st.sampled_from([8, 64]),
        "rank": st.sampled_from([1, 4]),
    }
)
stages = pytest.mark.parametrize("name", STAGES)
CODERS = [name for name, stage in STAGES.items() if stage.lossless]
LAWFUL = [
    ("ternary",),
    ("low-rank", "ternary"),
    ("top-k", "fp16"),
    ("top-k", "int8"),
    ("top-k", "int4"),
    ("rotate", "int4"),
    ("rotate", "nf4"),
    ("rotate", "sign"),
    ("rotate", "random-k"),
    ("low-rank", "int8"),
    ("random-k", "int8"),
    ("int8", "bf16"),
]
"""Mixes that make sense, each of which a coder may follow."""


def made_of(pipeline, tensors, seed):
    """After each stage what it made, and the forms that it announced."""
    forms, current = forms_of(shapes_of(tensors)), tensors
    for position, stage in enumerate(pipeline.stages):
        forms = stage.forms(forms)
        current = stage.encode(current, seed=derive_seed(seed, f"stage-{position}-{stage.name}"))
        yield stage, current, forms


@effort(max_examples=300)
@given(mixes, keys, updates, st.integers(0, 1000))
def test_what_is_made_has_the_forms_that_were_announced(names, options, tensors, seed):
    for _, made, forms in made_of(pipeline_of(*names, **options), tensors, seed):
        assert made.keys() == forms.keys()
        for name, form in forms.items():
            assert made[name].dtype == form.dtype
            if form.open:
                assert made[name].ndim == 1
                assert len(made[name]) <= form.shape[0]
            else:
                assert tuple(made[name].shape) == form.shape


@effort(max_examples=300)
@given(mixes, keys, updates, st.integers(0, 1000))
def test_an_honest_update_comes_back_in_shape_whatever_the_mix(names, options, tensors, seed):
    sent, back = there_and_back(pipeline_of(*names, **options), tensors, seed)
    assert shapes_of(back) == shapes_of(tensors)
    assert all(t.dtype == torch.float32 and bool(t.isfinite().all()) for t in back.values())
    assert all(t.is_contiguous() for t in sent.values())


@effort(max_examples=200)
@given(mixes, keys, updates, st.integers(0, 1000))
def test_one_seed_gives_one_upload(names, options, tensors, seed):
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    pipeline = pipeline_of(*names, **options)
    assert digest(pipeline.encode(tensors, seed=seed)) == digest(pipeline.encode(tensors, seed=seed))
    assert all(torch.equal(tensors[name], before[name]) for name in before)


@effort(max_examples=200)
@given(mixes, keys, updates, st.data())
def test_random_contents_are_refused_or_decoded_in_shape(names, options, tensors, data):
    """Whatever an int8 or uint8 tensor holds, decoding ends in the right shapes or in MalformedMessage."""
    pipeline = pipeline_of(*names, **options)
    sent = pipeline.encode(tensors, seed=0)
    for name, tensor in sent.items():
        if tensor.dtype in {torch.int8, torch.uint8} and data.draw(st.booleans()):
            noise = np.frombuffer(data.draw(st.binary(min_size=tensor.numel(), max_size=tensor.numel())), np.uint8)
            sent[name] = torch.from_numpy(noise.copy()).view(tensor.dtype).reshape(tensor.shape)
    try:
        back = pipeline.decode(sent, shapes_of(tensors), seed=0)
    except MalformedMessage:
        return
    assert shapes_of(back) == shapes_of(tensors)


def damaged(tensors):
    """Copies of an update of which one tensor is missing, too many, longer, of another dtype or of another rank."""
    yield {**tensors, "a-foreign-tensor": torch.zeros(1)}
    for name, tensor in tensors.items():
        yield {n: t for n, t in tensors.items() if n != name}
        yield {**tensors, name: tensor.double() if tensor.dtype != torch.float64 else tensor.float()}
        yield {**tensors, name: tensor[None]}
        yield {**tensors, name: torch.zeros((tensor.shape[0] + 10**6, *tensor.shape[1:]), dtype=tensor.dtype)}


@stages
def test_a_damaged_update_is_refused(name):
    tensors = normal([(30,), (12, 10)])
    pipeline = pipeline_of(name, rank=1)
    sent = pipeline.encode(tensors, seed=0)
    for bad in damaged(sent):
        with pytest.raises(MalformedMessage, match=f"'{name}'"):
            pipeline.decode(bad, shapes_of(tensors), seed=0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@stages
def test_no_infinity_is_decoded_to_something_finite(name, value):
    """One number that is none: refused here, or still there for the check of the whole update."""
    tensors = normal([(30,), (12, 10)])
    pipeline = pipeline_of(name, rank=1, density=0.1)
    sent = pipeline.encode(tensors, seed=0)
    for part in [n for n, t in sent.items() if t.is_floating_point()]:
        bad = sent[part].clone()
        bad.view(-1)[0] = value
        try:
            back = pipeline.decode({**sent, part: bad}, shapes_of(tensors), seed=0)
        except MalformedMessage:
            continue
        assert not np.isfinite(flat(back)).all()


@pytest.mark.parametrize("name", [name for name, stage in STAGES.items() if stage.linear])
@given(updates, st.integers(0, 1000))
def test_a_stage_that_says_so_is_linear(name, one, seed):
    other = {n: torch.randn(t.shape, generator=torch.Generator().manual_seed(seed)) for n, t in one.items()}
    pipeline, shapes = pipeline_of(name), shapes_of(one)
    sent = [pipeline.encode(tensors, seed=seed) for tensors in (one, other)]
    together = pipeline.decode({n: sent[0][n] + sent[1][n] for n in sent[0]}, shapes, seed=seed)
    apart = sum(flat(pipeline.decode(s, shapes, seed=seed)) for s in sent)
    np.testing.assert_allclose(flat(together), apart, rtol=1e-5, atol=1e-5 * (1 + norm(one) + norm(other)))


def test_the_linear_stages_are_these():
    assert {name for name, stage in STAGES.items() if stage.linear} == {"random-k", "rotate"}


CODED = [mix for mix in itertools.product(LAWFUL, CODERS) if readable((*mix[0], mix[1]))]


@pytest.mark.parametrize(("names", "coder"), CODED)
def test_a_coder_loses_nothing_of_what_the_stages_left(names, coder):
    tensors = normal([(200,), (30, 20), ()])
    plain, coded = (there_and_back(pipeline_of(*mix), tensors)[1] for mix in (names, (*names, coder)))
    assert np.array_equal(flat(plain), flat(coded))


@pytest.mark.parametrize("names", LAWFUL)
def test_mixes_that_make_sense_keep_the_direction(names):
    """The cosine between a heavy-tailed update and what arrives is above 0.4."""
    tensors = {name: tensor**3 for name, tensor in normal([(200,), (30, 20), (9,)], seed=1).items()}
    _, back = there_and_back(pipeline_of(*names, density=0.25, rank=8), tensors)
    x, y = flat(tensors), flat(back)
    assert x @ y / (np.linalg.norm(x) * np.linalg.norm(y)) > 0.4


def test_a_stage_may_come_twice():
    sent, back = there_and_back(pipeline_of("int8", "int8"), normal([(40,), (3, 3)]))
    assert {"int8.symbols", "again-int8.symbols", "again-int8.scales"} == sent.keys()
    assert shapes_of(back) == shapes_of(normal([(40,), (3, 3)]))
