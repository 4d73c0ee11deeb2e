"""Packed passes compute what the model's own padded passes do, for every family, adapter and choice of layers."""

import pytest

from fedtune.cohort.packed import PackedPass, why_not_packed
from tests.cohort.adapted import adapted, assert_agree, rows_of
from tests.split.split_models import FAMILIES, LAYERS

LENGTHS = (7, 3, 12, 7, 2, 9, 12)


@pytest.mark.parametrize("first", [0, 1, LAYERS - 1])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_logits_and_gradients_are_those_of_padded_passes(family: str, first: int) -> None:
    resident = adapted(family, first=first)
    assert why_not_packed(resident) is None
    rows, others = rows_of(family, LENGTHS), rows_of(family, (5, 11), seed=1)
    a_pass = PackedPass(resident, None)
    for _ in range(2):  # the second time from what is kept
        assert_agree(resident, a_pass, [(rows, [0, 2, 4, 5]), (others, [1]), (rows, [6, 1, 3])])
    assert (a_pass.unkept is None) == (first > 0)
    assert (a_pass.unpruned is None) == (family != "dinov2")
