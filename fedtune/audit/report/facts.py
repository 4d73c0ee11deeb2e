"""Everything that a report is made of, gathered once: what was promised, what happened, and what it comes to."""

from dataclasses import dataclass

from fedtune.audit.report.checks import Check
from fedtune.audit.report.history import History
from fedtune.audit.report.loss import Loss
from fedtune.audit.report.spending import Spending, may_name
from fedtune.audit.result import AuditResult
from fedtune.privacy.plan import Plan
from fedtune.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Facts:
    """What the tables of a report read; a function of the ledger, and of the empirical audit where there is one."""

    history: History
    plan: Plan
    spending: Spending
    loss: Loss
    """Of the participant that has been charged most."""
    planned: float | None
    """ε of the plan, for a participant of every round."""
    checks: tuple[Check, ...]
    empirical: AuditResult | None

    @property
    def recipe(self) -> Recipe:
        """The recipe of the ledger's opening."""
        return self.history.recipe

    @property
    def is_sound(self) -> bool:
        """Does every check hold?"""
        return all(check.holds for check in self.checks)

    @property
    def names_participants(self) -> bool:
        """May the report say who was in which round?"""
        return may_name(self.plan)

    @property
    def is_local(self) -> bool:
        """Does each client add the whole noise to its own update?"""
        return self.plan.unit == "client" and self.plan.trust == "client"

    @property
    def committed(self) -> int:
        """Training rounds whose result was released."""
        return len(self.history.of("train", "committed"))

    @property
    def has_test_rows(self) -> bool:
        """Does the coordinator score states on rows of its own?"""
        data = self.recipe.data
        return bool(data.test_source or (data.source and data.test_fraction))
