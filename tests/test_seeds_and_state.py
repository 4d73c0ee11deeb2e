"""Seeds are distinct by every part; states are copied, compared and digested by value."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.seeds import derive_seed, generator
from fedtune.state import add, copy_state, digest, parameter_count, shapes_of, subtract

parts = st.tuples(st.integers(0, 2**40), st.text(max_size=8), st.integers(0, 10_000), st.text(max_size=8))


@given(parts, parts)
def test_seeds_are_equal_exactly_when_all_parts_are(left, right):
    same = derive_seed(left[0], left[1], round_=left[2], client=left[3]) == derive_seed(
        right[0], right[1], round_=right[2], client=right[3]
    )
    assert same == (left == right)


@given(parts)
def test_seeds_fit_a_torch_generator_and_repeat(part):
    draws = [torch.rand(3, generator=generator(part[0], part[1], round_=part[2], client=part[3])) for _ in range(2)]
    assert torch.equal(*draws)


def test_a_copied_state_shares_no_memory():
    source = {"b": torch.ones(2, 2, dtype=torch.bfloat16), "a": torch.arange(3.0)}
    copied = copy_state(source)
    source["a"].zero_()
    assert list(copied) == ["a", "b"]
    assert copied["a"].tolist() == [0.0, 1.0, 2.0]
    assert all(t.dtype == torch.float32 and t.is_contiguous() for t in copied.values())


def test_subtract_and_add_are_each_others_inverse_on_exact_values():
    left, right = {"w": torch.tensor([4.0, 2.0])}, {"w": torch.tensor([1.0, 0.5])}
    assert torch.equal(add(subtract(left, right), right)["w"], left["w"])


def test_digest_depends_on_name_shape_dtype_and_value_only():
    state = {"w": torch.arange(6.0).reshape(2, 3), "v": torch.zeros(1)}
    reordered = {"v": state["v"], "w": state["w"].clone()}
    assert digest(state) == digest(reordered)
    for other in (
        {"x": state["w"], "v": state["v"]},
        {"w": state["w"].reshape(3, 2), "v": state["v"]},
        {"w": state["w"].double(), "v": state["v"]},
        {"w": state["w"] + 1e-6, "v": state["v"]},
    ):
        assert digest(other) != digest(state)


def test_counts_and_shapes():
    state = {"b": torch.zeros(2, 3), "a": torch.zeros(())}
    assert parameter_count(state.values()) == 7
    assert shapes_of(state) == {"a": (), "b": (2, 3)}
