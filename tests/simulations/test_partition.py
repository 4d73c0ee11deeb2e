"""Partitions: every row to exactly one client, the same by the seed, and one sentence where a scheme cannot be met."""

import time
from collections import Counter

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from fedtune.errors import DataError
from fedtune.recipe import DataSection, PartitionSection
from simulations.partition import partition


def table_of(labels: list[str], **columns: list[object]) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": [f"t{i}" for i in range(len(labels))], "label": labels, **columns})


def dealt(table: datasets.Dataset, *, seed: int = 0, label: str = "label", **scheme: object) -> list[list[int]]:
    section = DataSection(partition=PartitionSection.model_validate(scheme))
    return partition(table, section, label=label, seed=seed)


SCHEMES = st.one_of(
    st.fixed_dictionaries({"scheme": st.just("iid")}),
    st.fixed_dictionaries({"scheme": st.just("dirichlet"), "alpha": st.floats(0.05, 50)}),
    st.fixed_dictionaries({"scheme": st.just("pathological"), "classes_per_client": st.integers(1, 3)}),
    st.fixed_dictionaries({"scheme": st.just("size"), "growth": st.sampled_from(["linear", "square", "exponential"])}),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    labels=st.lists(st.sampled_from(["a", "b", "c", "a "]), min_size=1, max_size=80),
    scheme=SCHEMES,
    clients=st.integers(1, 12),
    min_rows=st.integers(0, 3),
    seed=st.integers(0, 2**50),
)
def test_every_row_goes_to_exactly_one_client(
    labels: list[str], scheme: dict[str, object], clients: int, min_rows: int, seed: int
) -> None:
    table = table_of(labels)
    scheme = {**scheme, "clients": clients, "min_rows": min_rows}
    try:
        rows = dealt(table, seed=seed, **scheme)
    except DataError:
        reject()  # the sentences are tested below
    assert len(rows) == clients
    assert sorted(row for client in rows for row in client) == list(range(len(labels)))
    assert all(client == sorted(client) and len(client) >= min_rows for client in rows)
    assert rows == dealt(table, seed=seed, **scheme)


@pytest.mark.parametrize(
    "scheme", [{"scheme": "iid"}, {"scheme": "dirichlet"}, {"scheme": "pathological"}, {"scheme": "size"}]
)
def test_another_seed_deals_other_rows(scheme: dict[str, object]) -> None:
    table = table_of(["a", "b", "c"] * 40)
    assert dealt(table, seed=1, clients=5, **scheme) != dealt(table, seed=2, clients=5, **scheme)


def test_iid_shares_differ_by_one_row_at_most() -> None:
    assert {len(client) for client in dealt(table_of(["a", "b"] * 51), clients=10)} == {10, 11}


def skew(alpha: float) -> float:
    """Mean over clients with rows of the share of their commonest class."""
    labels = ["a", "b"] * 1000
    rows = dealt(table_of(labels), scheme="dirichlet", alpha=alpha, clients=20, min_rows=0)
    shares = [max(Counter(labels[row] for row in client).values()) / len(client) for client in rows if client]
    return float(np.mean(shares))


def test_a_smaller_alpha_skews_more() -> None:
    assert skew(0.1) > 0.85
    assert 0.5 <= skew(100.0) < 0.65


def test_min_rows_holds_under_dirichlet() -> None:
    rows = dealt(table_of(["a", "b"] * 500), scheme="dirichlet", alpha=0.3, clients=20, min_rows=5)
    assert min(map(len, rows)) >= 5


def test_min_rows_of_zero_allows_clients_without_rows() -> None:
    rows = dealt(table_of(["a", "b"] * 100), scheme="dirichlet", alpha=0.05, clients=100, min_rows=0)
    assert min(map(len, rows)) == 0
    assert sum(map(len, rows)) == 200
    assert [len(client) for client in dealt(table_of(["a", "b"]), clients=3, min_rows=0)].count(0) == 1


@pytest.mark.parametrize(("clients", "each"), [(10, 2), (4, 1), (3, 2), (2, 3)])
def test_pathological_clients_hold_a_few_classes(clients: int, each: int) -> None:
    labels = ["a", "b", "c", "d"] * 25
    rows = dealt(table_of(labels), scheme="pathological", clients=clients, classes_per_client=each)
    assert all(len({labels[row] for row in client}) == each for client in rows)
    assert sum(map(len, rows)) == 100


@pytest.mark.parametrize(("growth", "power"), [("linear", 1), ("square", 2)])
def test_sizes_grow_as_they_are_told(growth: str, power: int) -> None:
    sizes = [len(client) for client in dealt(table_of(["a", "b"] * 500), scheme="size", growth=growth, clients=5)]
    ideal = np.arange(1, 6) ** power / (np.arange(1, 6) ** power).sum() * 1000
    assert np.abs(np.array(sizes) - ideal).max() <= 5  # what rounding leaves goes to the last


AUTHORS = ["ann"] * 3 + ["bob"] * 5 + [None] * 9 + ["cy"] * 4 + [""] * 2 + ["dan"]


@pytest.mark.parametrize(
    ("clients", "min_rows", "sizes"), [(10, 1, [5, 4, 3, 1]), (2, 1, [5, 4]), (10, 3, [5, 4, 3]), (10, 0, [5, 4, 3, 1])]
)
def test_natural_clients_are_the_largest_values(clients: int, min_rows: int, sizes: list[int]) -> None:
    """Smaller values, and rows without one, are left out: no client is a mixture of several people."""
    table = table_of(["a", "b"] * 12, author=list(AUTHORS))
    rows = dealt(table, scheme="natural", column="author", clients=clients, min_rows=min_rows)
    assert [len(client) for client in rows] == sizes
    assert [{AUTHORS[row] for row in client} for client in rows] == [{n} for n in ("bob", "cy", "ann", "dan")][
        : len(sizes)
    ]


def test_natural_takes_numbers_and_columns_that_were_renamed() -> None:
    table = table_of(["a", "b", "b"], ward=[7, 8, 7])
    assert dealt(table, scheme="natural", column="ward") == [[0, 2], [1]]
    section = DataSection(label="kind", partition=PartitionSection(scheme="natural", column="kind"))
    assert partition(table, section, label="label", seed=0) == [[1, 2], [0]]


def test_a_label_scheme_may_follow_another_column() -> None:
    table = table_of(["a", "b"] * 20, topic=["x"] * 20 + ["y"] * 20)
    rows = dealt(table, scheme="pathological", column="topic", clients=2, classes_per_client=1)
    assert sorted(rows) == [list(range(20)), list(range(20, 40))]


def test_a_partition_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """flwr-datasets' progress bar and its warnings about repeated draws do not reach the terminal."""
    dealt(table_of(["a", "b"] * 60), scheme="dirichlet", alpha=0.2, clients=15)
    dealt(table_of(["a", "b"]), scheme="natural", column="label")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        ({"scheme": "iid", "clients": 7}, "6 rows are too few for 7 clients of at least 1"),
        ({"scheme": "iid", "clients": 2, "min_rows": 4}, "6 rows are too few for 2 clients of at least 4"),
        ({"scheme": "size", "clients": 3, "min_rows": 2}, "would hold 1 rows, fewer than partition.min_rows = 2"),
        ({"scheme": "dirichlet", "clients": 7, "min_rows": 0}, "6 rows are too few for 7 clients"),
        ({"scheme": "dirichlet", "clients": 6, "alpha": 0.01}, "raise partition.alpha"),
        ({"scheme": "dirichlet", "column": "nope"}, 'no column "nope" to partition by: set partition.column to one of'),
        ({"scheme": "natural"}, "set partition.column to one of text, label"),
        ({"scheme": "natural", "column": "author", "min_rows": 9}, "has 9 rows"),
        ({"scheme": "natural", "column": "nobody"}, "has 1 rows"),
        ({"scheme": "pathological", "classes_per_client": 4}, "the data have 3 classes"),
        ({"scheme": "pathological", "clients": 2, "classes_per_client": 1}, "partition.classes_per_client to 2"),
        ({"scheme": "pathological", "clients": 6, "classes_per_client": 3}, "some class has fewer rows"),
        ({"scheme": "size", "growth": "exponential", "clients": 6}, "choose a slower partition.growth"),
        ({"scheme": "size", "growth": "exponential", "clients": 1000, "min_rows": 0}, "choose a slower"),
    ],
)
def test_what_cannot_be_met_is_one_sentence(scheme: dict[str, object], said: str) -> None:
    table = table_of(["a", "b", "c", "a", "b", "a"], author=["x"] * 6, nobody=[None] * 6)
    with pytest.raises(DataError) as caught:
        dealt(table, **{"clients": 3, **scheme})
    assert said in str(caught.value)


def test_a_task_without_labels_names_a_column() -> None:
    table = datasets.Dataset.from_dict({"prompt": ["a"] * 4, "answer": ["b"] * 4, "topic": ["x", "y"] * 2})
    with pytest.raises(DataError, match=r"set partition\.column to one of prompt, answer, topic"):
        dealt(table, scheme="dirichlet", label="", clients=2)
    assert sum(map(len, dealt(table, scheme="dirichlet", label="", column="topic", clients=2, alpha=5.0))) == 4


@pytest.mark.parametrize("scheme", [{"scheme": "dirichlet"}, {"scheme": "natural", "column": "author"}])
def test_ten_thousand_rows_are_dealt_to_a_hundred_clients_quickly(scheme: dict[str, object]) -> None:
    """Under two seconds of CPU time (0.2 s measured)."""
    table = table_of(["a", "b"] * 5000, author=[f"x{i % 97 * (i % 7)}" for i in range(10_000)])
    start = time.process_time()
    assert len(dealt(table, clients=100, **scheme)) == 100
    assert time.process_time() - start < 2
