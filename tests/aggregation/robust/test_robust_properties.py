"""What the rules promise: symmetry, shifts, and bounds on what f attackers of any size can do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtune.aggregation.robust.clipping import centred_clipping
from fedtune.aggregation.robust.coordinates import median, trimmed_mean
from fedtune.aggregation.robust.geometric import geometric_median
from fedtune.aggregation.robust.krum import krum, multi_krum
from fedtune.aggregation.robust.mixing import mix_neighbours
from fedtune.seeds import generator

WIDTH = 6
RULES = {
    "median": lambda matrix, _f: median(matrix),
    "trimmed mean": trimmed_mean,
    "geometric median": lambda matrix, _f: geometric_median(matrix),
    "krum": krum,
    "multi-krum": multi_krum,
}
MIXED = {f"{name} of mixed rows": lambda m, f, rule=rule: rule(mix_neighbours(m, f), f) for name, rule in RULES.items()}
ALL = RULES | MIXED
SEEDS = st.integers(0, 10_000)
SIZES = st.sampled_from([1e2, 1e6, 1e9])


@st.composite
def rounds(draw):
    """(honest (H, d), poisoned (f, d)): one-sided, or each attacker elsewhere, far away; 2f + 2 < K."""
    f = draw(st.integers(1, 4))
    honest_count = draw(st.integers(f + 3, f + 8))
    generate = generator(draw(SEEDS), "rounds")
    honest = torch.randn(honest_count, WIDTH, generator=generate, dtype=torch.float64)
    size = draw(SIZES)
    if draw(st.booleans()):
        return honest, torch.full((f, WIDTH), size, dtype=torch.float64)
    return honest, size * torch.randn(f, WIDTH, generator=generate, dtype=torch.float64)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=40)
@given(given_round=rounds(), seed=SEEDS)
def test_the_order_of_rows_changes_nothing_but_rounding(name, given_round, seed):
    matrix, f = torch.cat(given_round), len(given_round[1])
    order = torch.randperm(len(matrix), generator=generator(seed, "order"))
    torch.testing.assert_close(ALL[name](matrix[order], f), ALL[name](matrix, f), rtol=1e-9, atol=1e-5)


@given(given_round=rounds(), seed=SEEDS)
def test_the_order_of_rows_changes_no_bit_of_what_sorts_them(given_round, seed):
    matrix, f = torch.cat(given_round), len(given_round[1])
    order = torch.randperm(len(matrix), generator=generator(seed, "order"))
    assert torch.equal(median(matrix[order]), median(matrix))
    assert torch.equal(trimmed_mean(matrix[order], f), trimmed_mean(matrix, f))


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=40)
@given(seed=SEEDS, rows=st.integers(5, 12), shift=st.floats(-100, 100))
def test_a_shift_of_all_rows_shifts_the_result(name, seed, rows, shift):
    matrix = torch.randn(rows, WIDTH, generator=generator(seed, "rows"), dtype=torch.float64)
    torch.testing.assert_close(ALL[name](matrix + shift, 1), ALL[name](matrix, 1) + shift, rtol=0, atol=1e-6)


@given(seed=SEEDS, shift=st.floats(-100, 100), radius=st.sampled_from([0.0, 0.3, 50.0]))
def test_a_shift_of_rows_and_centre_shifts_what_clipping_gives(seed, shift, radius):
    rows = torch.randn(8, WIDTH, generator=generator(seed, "rows"), dtype=torch.float64)
    matrix, centre = rows[1:], rows[0]
    moved = centred_clipping(matrix + shift, centre + shift, radius=radius, steps=3)
    torch.testing.assert_close(moved, centred_clipping(matrix, centre, radius=radius, steps=3) + shift)


@pytest.mark.parametrize("name", ["median", "trimmed mean"])
@given(given_round=rounds())
def test_each_coordinate_stays_between_the_honest_ones(name, given_round):
    honest, poisoned = given_round
    found = ALL[name](torch.cat([honest, poisoned]), len(poisoned))
    assert (found >= honest.min(dim=0).values - 1e-12).all()
    assert (found <= honest.max(dim=0).values + 1e-12).all()


@given(given_round=rounds())
def test_the_geometric_median_stays_within_its_bound(given_round):
    honest, poisoned = given_round
    centre = honest.mean(dim=0)
    rows, f = len(honest) + len(poisoned), len(poisoned)
    bound = 2 * (rows - f) / (rows - 2 * f) * (honest - centre).norm(dim=1).max()
    assert (geometric_median(torch.cat([honest, poisoned])) - centre).norm() <= bound


@pytest.mark.parametrize("name", [name for name in ALL if "krum" in name or "mixed" in name])
@given(given_round=rounds())
def test_far_attackers_leave_no_trace_in_what_chooses(name, given_round):
    """Krum, Multi-Krum and every rule after mixing see through attackers 20 times as far off as the last honest row."""
    honest, poisoned = given_round
    centre = honest.mean(dim=0)
    reach = (honest - centre).norm(dim=1).max()
    far = poisoned[(poisoned - centre).norm(dim=1) > 20 * reach]
    assert (ALL[name](torch.cat([honest, far]), len(far)) - centre).norm() <= 2 * reach


@given(given_round=rounds(), radius=st.floats(0.01, 10), steps=st.integers(1, 4))
def test_f_rows_move_centred_clipping_by_their_share_of_the_radius(given_round, radius, steps):
    """By fτ/K in one step, beside rows at the centre; and all rows together by τ a step."""
    honest, poisoned = given_round
    centre = torch.zeros(WIDTH, dtype=torch.float64)
    dirty, clean = torch.cat([honest, poisoned]), torch.cat([honest, torch.zeros_like(poisoned)])
    one = [centred_clipping(matrix, centre, radius=radius, steps=1) for matrix in (dirty, clean)]
    assert (one[0] - one[1]).norm() <= len(poisoned) / len(dirty) * radius * (1 + 1e-9)
    assert centred_clipping(dirty, centre, radius=radius, steps=steps).norm() <= steps * radius * (1 + 1e-9)


@given(given_round=rounds())
def test_the_median_radius_is_no_larger_than_an_honest_distance(given_round):
    honest, poisoned = given_round
    found = centred_clipping(torch.cat([honest, poisoned]), torch.zeros(WIDTH), radius=0.0, steps=1)
    assert found.norm() <= honest.norm(dim=1).max() * (1 + 1e-9)


@given(size=SIZES)
def test_one_attacker_moves_the_mean_as_far_as_it_likes_and_no_rule_at_all(size):
    matrix = torch.zeros(8, WIDTH, dtype=torch.float64)
    matrix[5] = size
    assert matrix.mean(dim=0).tolist() == [size / 8] * WIDTH
    for rule in ALL.values():
        assert rule(matrix, 1).tolist() == [0.0] * WIDTH
