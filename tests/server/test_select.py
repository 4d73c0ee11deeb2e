"""Sampling is a function of seed and round, uniform, and random in order too."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fedtune.recipe import FederationSection
from server.select import asked, select, select_evaluators, wanted

NAMES = [f"client-{i}" for i in range(20)]


@given(st.integers(0, 30), st.floats(0, 4), st.integers(1, 20), st.integers(0, 50))
def test_as_many_as_wanted_and_the_over_selection_never_more_than_there_are(per_round, over, there, round_):
    section = FederationSection(clients_per_round=per_round, over_select=over)
    chosen = select(section, NAMES[:there], seed=1, round_=round_)
    assert len(chosen) == len(set(chosen)) == asked(section, there) <= there
    assert wanted(section, there) <= len(chosen)
    assert chosen == select(section, NAMES[:there], seed=1, round_=round_)


def test_every_client_is_drawn_about_as_often_and_stands_first_about_as_often():
    section = FederationSection(clients_per_round=5)
    draws = [select(section, NAMES, seed=3, round_=round_) for round_ in range(2000)]
    counts, firsts = Counter(n for d in draws for n in d), Counter(d[0] for d in draws)
    # Binomial(2000, 1/4) and (2000, 1/20): mean ± 5 standard deviations.
    assert all(500 - 97 < counts[name] < 500 + 97 for name in NAMES)
    assert all(100 - 49 < firsts[name] < 100 + 49 for name in NAMES)


def test_evaluators_are_drawn_apart_from_those_who_train():
    section = FederationSection(clients_per_round=5, evaluate_clients=5)
    train = [select(section, NAMES, seed=3, round_=r) for r in range(20)]
    evaluate = [select_evaluators(section, NAMES, seed=3, round_=r) for r in range(20)]
    assert all(len(e) == 5 for e in evaluate)
    assert train != evaluate
