"""Canary rows: in or out as their coins say, wrongly labelled, the same whether in or out, and nothing else changed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from fedtune.audit.canaries import CanaryRows, canary_names, choose_rows, toss
from fedtune.errors import PrivacyError
from protos.names import check_name


class Classified:
    """Rows whose text is their position and whose class is its remainder."""

    def __init__(self, count: int, classes: int) -> None:
        self.count, self.classes = count, classes

    def __len__(self) -> int:
        return self.count

    def batch(self, indices):
        positions = torch.tensor(list(indices), dtype=torch.int64)
        return {
            "input_ids": positions[:, None],
            "attention_mask": torch.ones(len(positions), 1),
            "labels": positions % self.classes,
        }


class Answered(Classified):
    """Rows of four tokens, of which the last two are the answer."""

    def batch(self, indices):
        tokens = torch.tensor([[i, i + 1, i + 2, i + 3] for i in indices], dtype=torch.int64)
        labels = tokens.clone()
        labels[:, :2] = -100
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}


@given(st.integers(1, 30), st.integers(2, 5), st.data())
def test_rows_are_there_unless_their_coin_left_them_out(count, classes, data):
    canaries = data.draw(st.dictionaries(st.integers(0, count - 1), st.booleans()))
    rows = CanaryRows(Classified(count, classes), canaries, choices=classes, seed=3)
    there = [position for position in range(count) if canaries.get(position, True)]
    assert len(rows) == len(there)
    batch = rows.batch(range(len(rows)))
    assert batch["input_ids"][:, 0].tolist() == there
    for label, position in zip(batch["labels"].tolist(), there, strict=True):
        assert 0 <= label < classes
        assert (label == position % classes) == (position not in canaries)


@given(st.integers(2, 5), st.booleans())
def test_a_canary_is_scored_as_it_would_be_trained_on(classes, is_in):
    rows = CanaryRows(Classified(8, classes), {5: is_in}, choices=classes, seed=9)
    again = CanaryRows(Classified(8, classes), {5: True}, choices=classes, seed=9)
    assert rows.canary(5)["labels"].tolist() == again.batch([5])["labels"].tolist()
    with pytest.raises(PrivacyError):
        rows.canary(4)


def test_a_canary_of_a_language_model_has_another_answer_and_its_own_prompt():
    rows = CanaryRows(Answered(6, 0), {2: True}, choices=10_000, seed=1)
    plain, batch = Answered(6, 0).batch([1, 2]), rows.batch([1, 2])
    assert torch.equal(batch["input_ids"][0], plain["input_ids"][0])
    assert torch.equal(batch["input_ids"][1, :2], plain["input_ids"][1, :2])
    assert not torch.equal(batch["input_ids"][1, 2:], plain["input_ids"][1, 2:])
    assert torch.equal(batch["input_ids"][1, 2:], batch["labels"][1, 2:])
    assert batch["labels"][1, :2].tolist() == [-100, -100]


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.integers(0, 20), min_size=1, max_size=6), st.integers(0, 30))
def test_canaries_get_rows_of_their_own_and_clients_keep_half(sizes, count):
    names, room = canary_names(count), sum(size // 2 for size in sizes.values())
    if count > room:
        with pytest.raises(PrivacyError, match="too many"):
            choose_rows(sizes, names, seed=0)
        return
    chosen = choose_rows(sizes, names, seed=0)
    assert chosen.keys() == set(names)
    assert len(set(chosen.values())) == count
    for client, size in sizes.items():
        mine = [row for host, row in chosen.values() if host == client]
        assert len(mine) <= size // 2
        assert all(0 <= row < size for row in mine)


def test_clients_get_canaries_in_turn():
    hosts = [client for client, _ in choose_rows({"a": 20, "b": 20, "c": 2}, canary_names(7), seed=0).values()]
    assert sorted(hosts) == ["a", "a", "a", "b", "b", "b", "c"]


def test_coins_are_fair_independent_of_each_other_and_never_the_same_again():
    names = canary_names(4000)
    coins = toss(names)
    assert binomtest(sum(coins.values()), 4000).pvalue > 1e-6
    assert coins != toss(names)
    values = np.array(list(coins.values()))
    assert binomtest(int(np.sum(values[1:] == values[:-1])), 3999).pvalue > 1e-6
    assert all(check_name(name) for name in names[:3])


@pytest.mark.parametrize("canaries", [{9: True}, {-1: False}])
def test_rows_that_are_not_there_cannot_be_canaries(canaries):
    with pytest.raises(PrivacyError):
        CanaryRows(Classified(9, 2), canaries, choices=2, seed=0)
    with pytest.raises(PrivacyError):
        CanaryRows(Classified(9, 1), {}, choices=1, seed=0)
