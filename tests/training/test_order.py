"""Which rows a step reads: every row once an epoch, sizes as asked, and from the seed alone."""

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from fedtune.recipe import TrainingSection
from fedtune.training.order import count_steps, draw_rows, local_steps

SECTIONS = st.builds(
    TrainingSection,
    epochs=st.integers(1, 3),
    steps=st.none() | st.integers(0, 20),
    batch_size=st.integers(1, 9),
    accumulate=st.integers(1, 4),
)
ROWS = st.integers(0, 60)
SEEDS = st.integers(0, 2**63 - 1)


@given(ROWS, SECTIONS, SEEDS)
def test_there_are_as_many_steps_as_counted(rows: int, section: TrainingSection, seed: int) -> None:
    assert len(list(local_steps(rows, section, seed))) == count_steps(rows, section)


@given(st.integers(1, 60), SECTIONS, SEEDS)
def test_an_epoch_reads_every_row_once_in_passes_of_the_batch_size(
    rows: int, section: TrainingSection, seed: int
) -> None:
    section = section.model_copy(update={"steps": None, "epochs": 1})
    steps = list(local_steps(rows, section, seed))
    assert sorted(chain.from_iterable(chain.from_iterable(steps))) == list(range(rows))
    assert all(len(step) == section.accumulate for step in steps[:-1])
    passes = list(chain.from_iterable(steps))
    assert all(len(indices) == section.batch_size for indices in passes[:-1])
    assert 1 <= len(passes[-1]) <= section.batch_size


@given(st.integers(1, 40), SECTIONS, SEEDS)
def test_steps_are_a_prefix_of_the_same_epochs(rows: int, section: TrainingSection, seed: int) -> None:
    whole = section.model_copy(update={"steps": None, "epochs": 5})
    some = section.model_copy(update={"steps": min(count_steps(rows, whole), 4)})
    assert list(local_steps(rows, some, seed)) == list(local_steps(rows, whole, seed))[: some.steps]


def test_epochs_and_seeds_shuffle_differently() -> None:
    section = TrainingSection(epochs=2, batch_size=50)
    first, second = (step[0] for step in local_steps(50, section, 3))
    (other, _) = (step[0] for step in local_steps(50, section, 4))
    assert first != second
    assert first != other


def test_a_client_without_rows_takes_no_step_even_where_steps_are_asked_for() -> None:
    assert count_steps(0, TrainingSection(steps=7)) == 0
    assert list(local_steps(0, TrainingSection(steps=7), 0)) == []


@given(ROWS, st.integers(1, 80), SEEDS)
def test_drawn_rows_are_different_rows_of_the_client(rows: int, limit: int, seed: int) -> None:
    drawn = draw_rows(rows, limit, seed)
    assert len(drawn) == len(set(drawn)) == min(rows, limit)
    assert set(drawn) <= set(range(rows))
    assert drawn == draw_rows(rows, limit, seed)
