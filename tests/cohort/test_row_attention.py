"""Attention between rows of a stream is that of each row by itself."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from fedtune.cohort.attention import NAME, attend, rows_apart
from fedtune.cohort.places import Places
from tests.split.split_models import batch, whole

HEADS, WIDTH = 4, 3


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[int], list[list[int]]]:
    """Rows' lengths, and which tokens of each row ask."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=7))
    return lengths, [sorted(draw(st.sets(st.integers(0, n - 1), min_size=1))) for n in lengths]


def alone(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, at: list[int], causal: bool) -> torch.Tensor:
    """(M, H, D): one row's attention, by softmax written out."""
    k, v = (x.repeat_interleave(HEADS // x.shape[1], dim=1) for x in (k, v))
    scores = torch.einsum("mhd,nhd->hmn", q, k) * 0.7
    if causal:
        scores = scores.masked_fill(torch.arange(len(k)) > torch.tensor(at)[:, None], -torch.inf)
    return torch.einsum("hmn,nhd->mhd", scores.softmax(-1), v)


@settings(max_examples=60)
@given(streams(), st.booleans(), st.booleans(), st.sampled_from([1, 2, 4]))
def test_each_row_attends_to_itself(
    stream: tuple[list[int], list[list[int]]], causal: bool, some: bool, shared: int
) -> None:
    lengths, asking = stream if some else (stream[0], [list(range(n)) for n in stream[0]])
    total = sum(lengths)
    starts = [sum(lengths[:row]) for row in range(len(lengths))]
    read = torch.tensor([start + at for start, places in zip(starts, asking, strict=True) for at in places])
    draw = torch.Generator().manual_seed(total)
    q = torch.randn(len(read), HEADS, WIDTH, generator=draw, dtype=torch.float64, requires_grad=True)
    k, v = (
        torch.randn(total, shared, WIDTH, generator=draw, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    cpu = torch.device("cpu")
    places = Places.of(lengths, cpu, list(map(len, asking)), read) if some else Places.of(lengths, cpu)
    own = attend(q, k, v, places, scale=0.7, causal=causal)
    pieces = zip(q.split(list(map(len, asking))), k.split(lengths), v.split(lengths), asking, strict=True)
    expected = torch.cat([alone(*piece, causal) for piece in pieces])
    torch.testing.assert_close(own, expected)
    weights = torch.randn(own.shape, generator=draw, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad((own * weights).sum(), (q, k, v)),
        torch.autograd.grad((expected * weights).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_numbers_that_are_not_finite_stay_in_their_row() -> None:
    lengths, read = [4, 3, 5], torch.tensor([1, 4, 6, 7, 8, 11])
    for places in (Places.of(lengths, torch.device("cpu"), [1, 2, 3], read),):
        q = torch.randn(6, HEADS, WIDTH)
        k, v = torch.randn(12, HEADS, WIDTH), torch.randn(12, HEADS, WIDTH)
        for x, begin, end in ((q, 1, 3), (k, 4, 7), (v, 4, 7)):
            x[begin:end] = torch.nan
        for x in (q, k, v):
            x.requires_grad_()
        output = attend(q, k, v, places, scale=None, causal=False)
        assert output[[0, 3, 4, 5]].isfinite().all()
        assert output[1:3].isnan().all()
        for gradient, begin, end in zip(
            torch.autograd.grad(output.sum(), (q, k, v)), (1, 4, 4), (3, 7, 7), strict=True
        ):
            assert torch.cat((gradient[:begin], gradient[end:])).isfinite().all()


def test_without_a_stream_it_is_the_attention_that_there_was() -> None:
    model, inputs = whole("qwen2").model, batch("qwen2")
    with torch.no_grad():
        expected = model(**inputs).logits
        model.config._attn_implementation = NAME
        try:
            assert torch.equal(model(**inputs).logits, expected)
        finally:
            model.config._attn_implementation = "sdpa"


def test_the_implementation_is_put_back_after_an_error() -> None:
    config = whole("bert").model.config
    before = config._attn_implementation
    try:
        with rows_apart([config], Places.of([2], torch.device("cpu"))):
            assert config._attn_implementation == NAME
            raise RuntimeError
    except RuntimeError:
        assert config._attn_implementation == before


def test_equal_rows_are_neither_copied_nor_masked() -> None:
    places = Places.of([3, 3], torch.device("cpu"))
    assert places.keys is None
    assert [group.own for group in places.groups] == [None]
    q = torch.randn(6, HEADS, WIDTH)
    expected = scaled_dot_product_attention(*(q.reshape(2, 3, HEADS, WIDTH).transpose(1, 2),) * 3)
    assert torch.equal(
        attend(q, q, q, places, scale=None, causal=False), expected.transpose(1, 2).reshape(6, HEADS, WIDTH)
    )
