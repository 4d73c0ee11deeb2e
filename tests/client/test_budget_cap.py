"""The cap of a data set: over all runs and coordinators, whoever works on it at once, and for ever."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from client.policy.account import spent
from client.policy.book import Book
from client.policy.declined import BookBusy, BudgetSpent, Declined
from client.policy.entry import encode
from client.policy.guard import Guard
from fedtune.privacy.events import Event
from fedtune.privacy.plan import plan_of
from fedtune.recipe import Recipe
from tests.client.budgets import DELTA, EXAMPLE, entry_of, gaussian_epsilon, guard_of, policy_of, recipe_of, task_of


def charged(recipe: Recipe) -> tuple[Event, ...]:
    """What a round of training costs, by the plan."""
    plan = plan_of(recipe)
    assert plan is not None
    return plan.round_events


def test_rounds_are_taken_on_up_to_the_cap_and_then_declined_over_all_runs_and_coordinators(tmp_path: Path) -> None:
    recipe = recipe_of()
    one = spent([entry_of(*charged(recipe))], DELTA, gaussian_epsilon).epsilon
    three = spent([entry_of(*charged(recipe))] * 3, DELTA, gaussian_epsilon).epsilon
    guard = guard_of(tmp_path, three)
    for run, coordinator in (("a", "one"), ("b", "one"), ("c", "two")):
        Guard(guard.book, guard.policy, coordinator=coordinator, epsilon_of=gaussian_epsilon).reserve(
            task_of(recipe, run=run), recipe, "me", rows=10
        )
    with pytest.raises(BudgetSpent) as caught:
        guard.reserve(task_of(recipe, run="d"), recipe, "me", rows=10)
    assert caught.value.reason == "budget-spent"
    assert "budget.epsilon" in caught.value.told
    assert f"{three:.4g}" not in caught.value.told  # what other coordinators spent is none of this one's business
    assert one < three
    assert len(guard.book.entries()) == 3  # what was declined is not spent


def test_a_round_that_is_trained_again_costs_again(tmp_path: Path) -> None:
    guard, recipe = guard_of(tmp_path), recipe_of()
    for _ in range(2):
        guard.reserve(task_of(recipe), recipe, "me", rows=10)
    assert [entry.round for entry in guard.book.entries()] == [1, 1]


def test_without_a_policy_nothing_is_declined_and_a_later_cap_counts_the_past(tmp_path: Path) -> None:
    recipe = recipe_of()
    past = Guard(Book(tmp_path, "path-1"), epsilon_of=gaussian_epsilon)
    for round_ in range(5):
        past.reserve(task_of(recipe, round_=round_), recipe, "me", rows=10)
    cap = spent([entry_of(*charged(recipe))] * 5, DELTA, gaussian_epsilon).epsilon
    book = Book(tmp_path, "rows")
    later = Guard(book, policy_of(cap), earlier=(past.book,), epsilon_of=gaussian_epsilon)
    with pytest.raises(BudgetSpent):
        later.reserve(task_of(recipe, round_=6), recipe, "me", rows=10)
    Guard(book, policy_of(cap), epsilon_of=gaussian_epsilon).reserve(task_of(recipe), recipe, "me", rows=10)


def test_rounds_without_privacy_leave_a_later_cap_no_room_unless_the_owner_leaves_them_out(tmp_path: Path) -> None:
    plain, private = recipe_of(privacy={}), recipe_of()
    Guard(Book(tmp_path, "rows")).reserve(task_of(plain), plain, "me", rows=10)
    with pytest.raises(BudgetSpent, match="without_privacy = true"):
        guard_of(tmp_path, 50.0).reserve(task_of(private), private, "me", rows=10)
    guard_of(tmp_path, 50.0, without_privacy=True).reserve(task_of(private), private, "me", rows=10)


def test_only_where_there_is_nothing_to_spend_a_book_may_be_out_of_reach(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    book, plain, private = Book(tmp_path / "file" / "in", "rows"), recipe_of(privacy={}), recipe_of()
    Guard(book).reserve(task_of(plain), plain, "me", rows=10)()
    assert "a later budget will not know" in caplog.text
    with pytest.raises(BookBusy):
        Guard(book).reserve(task_of(private), private, "me", rows=10)
    with pytest.raises(BookBusy):
        Guard(book, policy_of(without_privacy=True)).reserve(task_of(plain), plain, "me", rows=10)


def test_one_data_set_under_two_names_in_one_sum_is_declined(tmp_path: Path) -> None:
    central = {"unit": "client", "delta": 1e-6, "noise_multiplier": 1.0, "sampling_rate": 0.1, "population": 50}
    recipe, guard = recipe_of(privacy=central), guard_of(tmp_path)
    guard.reserve(task_of(recipe), recipe, "me", rows=10)
    with pytest.raises(Declined, match="start one client alone"):
        guard.reserve(task_of(recipe), recipe, "myself", rows=10)
    guard.reserve(task_of(recipe, run="another"), recipe, "myself", rows=10)


def test_a_refusal_of_the_cap_does_not_stop_cheaper_tasks(tmp_path: Path) -> None:
    dear = recipe_of(privacy={**EXAMPLE, "noise_multiplier": 0.3})
    cheap = recipe_of(privacy={**EXAMPLE, "noise_multiplier": 30.0})
    guard = guard_of(tmp_path, 2.0)
    with pytest.raises(BudgetSpent):
        guard.reserve(task_of(dear), dear, "me", rows=10)
    guard.reserve(task_of(cheap), cheap, "me", rows=10)


def work_until_declined(folder: Path, name: str, cap: float, go: int, begun: int) -> int:
    """In a forked process: take rounds on until there is no room, and end with their number; returns its id.

    After its first round it says so on `begun`, and waits for a byte of `go`.
    """
    child = os.fork()
    if child:
        return child
    taken = 255
    try:
        guard, recipe, count = guard_of(folder, cap), recipe_of(), 0
        while taken == 255:
            try:
                guard.reserve(task_of(recipe, run=name, round_=count), recipe, name, rows=10)()
                count += 1
                if count == 1:
                    os.write(begun, b".")
                    os.read(go, 1)
            except BudgetSpent:
                taken = count
    finally:
        os._exit(taken)


@pytest.mark.processes
def test_processes_on_one_data_set_together_keep_the_cap(tmp_path: Path) -> None:
    allowed = 30
    cap = spent([entry_of(*charged(recipe_of()))] * allowed, DELTA, gaussian_epsilon).epsilon
    go, start = os.pipe()
    heard, begun = os.pipe()
    workers = [work_until_declined(tmp_path, f"client-{number}", cap, go, begun) for number in range(4)]
    for _ in workers:
        os.read(heard, 1)
    os.write(start, b"." * len(workers))
    taken = [os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers]
    assert sum(taken) == allowed
    assert all(count > 0 for count in taken)
    reserved = [entry for entry in Book(tmp_path, "rows").entries() if entry.what == "reserve"]
    assert spent(reserved, DELTA, gaussian_epsilon).epsilon <= cap
    assert len(reserved) == allowed


class Spending(RuleBasedStateMachine):
    """Clients come, work, crash and come back on one data set; a model of the book counts beside it."""

    CAP = 3.0

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        self.guard = guard_of(self.folder, self.CAP)
        self.open: list[object] = []
        self.worked: list[object] = []
        self.before = 0.0

    def teardown(self) -> None:
        self._folder.cleanup()

    @rule(
        sigma=st.floats(0.8, 8.0),
        steps=st.integers(1, 5),
        kind=st.sampled_from(["train", "evaluate", "gradient"]),
        run=st.sampled_from("ab"),
        round_=st.integers(0, 4),
    )
    def reserve(self, sigma: float, steps: int, kind: str, run: str, round_: int) -> None:
        recipe = recipe_of(
            privacy={**EXAMPLE, "noise_multiplier": sigma, "metrics": "noised", "metrics_noise": 9.0},
            adapter={"init": "dp-gradient"},
            training={"steps": steps},
        )
        count = len(self.guard.book.entries())
        try:
            done = self.guard.reserve(task_of(recipe, kind=kind, run=run, round_=round_), recipe, "me", rows=9)
        except Declined:
            assert len(self.guard.book.entries()) == count
            return
        self.open.append(done)
        self.worked.append(self.guard.book.entries()[-1])

    @precondition(lambda self: self.open)
    @rule()
    def finish(self) -> None:
        self.open.pop()()

    @rule()
    def come_back_after_a_crash(self) -> None:
        self.open.clear()
        self.guard = guard_of(self.folder, self.CAP)

    @rule(cut=st.integers(1, 200))
    def crash_in_the_middle_of_a_line(self, cut: int) -> None:
        line = encode(entry_of(), "x")[0][:-1]
        with (self.folder / "rows.jsonl").open("ab") as file:
            file.write(line[:cut])
        self.open.clear()
        self.guard = guard_of(self.folder, self.CAP)
        with self.guard.book.open() as pen:  # as the next reservation does
            pen.append(entry_of(what="done", events=()).model_copy(update={"events": ()}))

    @invariant()
    def spent_only_grows_stays_within_the_cap_and_covers_what_was_worked_on(self) -> None:
        entries = self.guard.book.entries()
        now = spent(entries, DELTA, gaussian_epsilon).epsilon
        assert self.before <= now <= self.CAP
        assert [entry for entry in entries if entry.what == "reserve"] == self.worked
        assert spent(self.worked, DELTA, gaussian_epsilon).epsilon == now
        self.before = now


TestSpending = Spending.TestCase
TestSpending.settings = settings(max_examples=15, stateful_step_count=16, deadline=None)
