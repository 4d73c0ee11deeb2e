"""The `sampled` partition: rows drawn per client on demand, the same whoever asks and whenever, for any population."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtune.errors import DataError
from fedtune.recipe import PartitionSection
from simulations import sampled
from simulations.sampled import SampledParts


def parts(groups: list[int], seed: int = 0, **keys: object) -> SampledParts:
    section = PartitionSection.model_validate({"scheme": "sampled", "clients": 50, **keys})
    return SampledParts(np.array(groups), section, seed)


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.integers(0, 3), min_size=12, max_size=60),
    rows=st.integers(1, 12),
    spread=st.sampled_from([0.0, 0.5, 2.0]),
    alpha=st.sampled_from([None, 0.01, 0.5, 50.0]),
    least=st.integers(0, 6),
    seed=st.integers(0, 2**40),
    position=st.integers(0, 49),
)
def test_a_part_is_different_rows_of_the_size_that_is_told_without_them(
    groups: list[int], rows: int, spread: float, alpha: float | None, least: int, seed: int, position: int
) -> None:
    keys = {"rows_per_client": rows, "rows_spread": spread, "label_alpha": alpha, "min_rows": least}
    made = parts(groups, seed, **keys)
    part = made[position]
    assert part == sorted(set(part))
    assert set(part) <= set(range(len(groups)))
    assert len(part) == made.size(position)
    assert max(least, 1) <= len(part) <= len(groups)
    # Nothing asked before, and no number of clients, changes it.
    other = parts(groups, seed, **{**keys, "clients": 1_000_000})
    assert [other[7], other[position]][1] == part


def test_another_client_or_seed_draws_other_rows() -> None:
    rows = [0] * 1000
    assert parts(rows)[0] != parts(rows)[1]
    assert parts(rows)[0] != parts(rows, seed=1)[0]
    assert len({row for part in parts(rows) for row in part}) < sum(map(len, parts(rows)))  # rows are used again


def test_sizes_are_log_normal_around_their_median() -> None:
    made = parts([0] * 5000, clients=3000, rows_per_client=40, rows_spread=0.5)
    sizes = np.array([made.size(position) for position in range(len(made))])
    assert np.median(sizes) == pytest.approx(40, abs=1.5)
    assert np.std(np.log(sizes)) == pytest.approx(0.5, abs=0.03)


def test_a_small_alpha_gives_a_client_few_labels_and_all_clients_together_the_datas_mix() -> None:
    groups = [0] * 600 + [1] * 300 + [2] * 100
    skewed, even = (parts(groups, clients=400, label_alpha=alpha) for alpha in (0.05, 1000.0))
    largest = [max(Counter(groups[row] for row in part).values()) / len(part) for part in skewed]
    assert np.mean(largest) > 0.8
    counts = Counter(groups[row] for part in even for row in part)
    shares = np.array([counts[group] for group in range(3)]) / counts.total()
    np.testing.assert_allclose(shares, [0.6, 0.3, 0.1], atol=0.02)


def test_a_population_of_a_hundred_thousand_draws_the_parts_that_are_asked_for_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[str] = []
    derive = sampled.derive_seed

    def counting(seed: int, purpose: str, *, client: str) -> int:
        drawn.append(purpose)
        return derive(seed, purpose, client=client)

    monkeypatch.setattr(sampled, "derive_seed", counting)
    made = parts([0, 1] * 2000, clients=100_000, rows_spread=0.5)
    assert (len(made), drawn) == (100_000, [])
    assert len(made[99_999:]) == 1
    made.size(5)
    assert Counter(drawn) == {"sampled-size": 2, "sampled-rows": 1}
    assert not any(isinstance(value, list) and len(value) > 2 for value in vars(made).values())


def test_too_few_rows_are_said_in_one_sentence() -> None:
    with pytest.raises(DataError, match="20 rows are too few for a client of 32: lower"):
        parts([0] * 20)
