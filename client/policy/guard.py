"""A data set's guard: every task passes its policy and its book before a row of it is worked on."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from client.policy.account import EpsilonOf, spent
from client.policy.book import Book, now_utc
from client.policy.charge import charge_of, check_covered
from client.policy.declined import BookBusy, BudgetSpent, Declined
from client.policy.entry import Entry
from client.policy.policy import Policy
from client.policy.rules import Asked, check_rounds, check_rules, check_steps
from fedtune.errors import PrivacyError
from fedtune.privacy.plan import plan_of
from fedtune.recipe import Recipe
from fedtune.wire import Task

_log = logging.getLogger("fedtune.client")


@dataclass(frozen=True, slots=True)
class Guard:
    """What stands between a coordinator and one data set.

    Guarantees: what a task spends is on the disk before it is worked on, and stays spent whatever happens next; where
    there is a budget, the ε of all that was ever reserved stays at or below it, also when several processes work on
    the data set at once. Without a policy nothing is refused, and the book is kept all the same, so that a budget that
    comes later counts what was before.
    """

    book: Book
    policy: Policy | None = None
    earlier: tuple[Book, ...] = ()
    """Books that the data set had under other names: what stands there counts too."""
    coordinator: str = ""
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    epsilon_of: EpsilonOf | None = None

    def consider(self, task: Task, recipe: Recipe) -> None:
        """Raise Declined where the task is not allowed, whatever the rows: before anything is loaded for it."""
        plan = plan_of(recipe)
        check_covered(task, plan)
        if self.policy is not None:
            check_rules(self.policy, Asked(recipe, plan, task.model_fingerprint, self.clock()))

    def reserve(self, task: Task, recipe: Recipe, client: str, *, rows: int) -> Callable[[], None]:
        """Spend what the task costs; it may then be worked on. What is returned is called when its reply was made.

        Raises Declined where the policy or the budget does not allow it, BookBroken or BookBusy where the book cannot
        be trusted or written: then nothing may be begun. Only where there is neither a policy nor privacy, a book that
        cannot be written is a warning: there is nothing to spend.
        """
        self.consider(task, recipe)
        if self.policy is not None and task.kind == "train":
            check_steps(self.policy, recipe, rows)
        try:
            return self._spend(task, recipe, client)
        except BookBusy as error:
            if self.policy is not None or plan_of(recipe) is not None:
                raise
            _log.warning("%s: a later budget will not know of this task without privacy: %s", client, error)
            return lambda: None

    def _spend(self, task: Task, recipe: Recipe, client: str) -> Callable[[], None]:
        with self.book.open() as pen:
            of_run = [entry for entry in pen.entries if entry.run == task.run and entry.client == client]
            charge = charge_of(task, recipe, plan_of(recipe), of_run)
            entry = Entry(
                what="reserve",
                at=now_utc(),
                run=task.run,
                round=task.round,
                task=task.kind,
                client=client,
                coordinator=self.coordinator,
                unit=charge.unit,
                relation=charge.relation,
                trust=charge.trust,
                events=charge.events,
                through=charge.through,
            )
            self._check(pen.entries, entry)
            position = pen.append(entry)
        return lambda: self._done(entry, position)

    def _done(self, reserved: Entry, position: int) -> None:
        """Note that a reservation's reply was made. Where that cannot be written it is only logged: it is spent."""
        nothing = {"what": "done", "at": now_utc(), "of": position, "events": (), "through": 0}
        try:
            with self.book.open() as pen:
                pen.append(reserved.model_copy(update=nothing))
        except PrivacyError as error:
            _log.warning("%s, round %d: its end was not written down: %s", reserved.client, reserved.round, error)

    def _check(self, entries: Sequence[Entry], proposed: Entry) -> None:
        _check_name(entries, proposed)
        if self.policy is None:
            return
        if proposed.task == "train":
            check_rounds(self.policy, proposed.run, proposed.round, entries)
        budget = self.policy.budget
        if budget is None:
            return
        before = [entry for book in self.earlier for entry in book.entries()]
        total = spent([*before, *entries, proposed], budget.delta, self.epsilon_of)
        if total.unprotected and not self.policy.without_privacy:
            raise BudgetSpent(
                "the data owner's budget has no room: rows of this data set were worked on without privacy",
                f"{total.unprotected} tasks without privacy stand in the book of {self.book.dataset}, and no ε bounds "
                "those; set without_privacy = true to have budget.epsilon cover the private tasks alone",
            )
        if proposed.events and not total.epsilon <= budget.epsilon:
            raise BudgetSpent(
                "the data owner's budget has no room for this task: budget.epsilon would be passed",
                f"ε would come to {total.epsilon:.4g} at δ = {budget.delta:g} ({total.about}) on {self.book.dataset}, "
                f"more than budget.epsilon = {budget.epsilon:g}; `fedtune policy show` says what was spent",
            )


def _check_name(entries: Sequence[Entry], proposed: Entry) -> None:
    """Two clients on one data set would count twice in one sum of the coordinator, whose noise hides one."""
    others = {entry.client for entry in entries if entry.run == proposed.run} - {proposed.client}
    if proposed.trust == "coordinator" and others:
        raise Declined(
            "this data set takes part in the run under another name already",
            f"{proposed.client!r} and {sorted(others)[0]!r} are clients of one run on the one data set; the noise of "
            "the coordinator hides one of them, not both: start one client alone",
        )
