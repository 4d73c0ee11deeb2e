"""`audit.json`: what an empirical audit found, beside what the run claims; the report embeds it as it is."""

import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedtune.audit.estimators.bound import Assumption, Bound, Estimate
from fedtune.errors import RunError

FILE = "audit.json"
FORMAT: Literal["fedtune audit 1"] = "fedtune audit 1"
Attack = Literal["black-box", "white-box"]
"""`black-box` sees the first and the last state; `white-box` every state or update that the coordinator sees."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BoundRecord(_Record):
    """A lower bound on ε that holds with `confidence`, together with all others that decide."""

    attack: Attack
    method: str
    epsilon: float = Field(ge=0)
    confidence: float = Field(gt=0, lt=1)
    """Of this bound alone: so high that all that decide hold together with the audit's own confidence."""
    assumption: Assumption
    decides: bool
    """Does it count against the claim? Only what holds for any mechanism does."""

    @classmethod
    def of(cls, bound: Bound, attack: Attack) -> "BoundRecord":
        """The record of an estimator's bound."""
        return cls(
            attack=attack,
            method=bound.method,
            epsilon=bound.epsilon,
            confidence=bound.confidence,
            assumption=bound.assumption,
            decides=bound.assumption == "none",
        )


class EstimateRecord(_Record):
    """A figure from a model of the scores: not a bound, and never compared with the claim."""

    attack: Attack
    method: str
    epsilon: float | None
    """None where it is infinite."""
    model: str

    @classmethod
    def of(cls, estimate: Estimate, attack: Attack) -> "EstimateRecord":
        """The record of an estimator's estimate."""
        finite = estimate.epsilon if math.isfinite(estimate.epsilon) else None
        return cls(attack=attack, method=estimate.method, epsilon=finite, model=estimate.model)


class ClaimRecord(_Record):
    """A test of the plan's own privacy curve, which says more than its ε at one δ."""

    attack: Attack
    p_value: float = Field(ge=0, le=1)
    """How likely the attack does so well, at most, if the run was as private as the plan says."""
    refuted: bool


class CheckRecord(_Record):
    """One direct test of the mechanism."""

    name: str
    holds: bool
    p_value: float | None = None
    """None where no chance plays a part."""
    found: str
    """One sentence."""


class AuditResult(_Record):
    """An empirical audit of one run."""

    format: Literal["fedtune audit 1"] = FORMAT
    run: str
    """The id of the audited run, in its run folder."""
    recipe_fingerprint: str
    """Of the recipe that was audited, canaries and all."""
    created: str
    """ISO 8601, UTC."""
    unit: Literal["example", "client"]
    relation: Literal["add-or-remove-one", "replace-one"]
    delta: float
    claimed_epsilon: float
    """What the plan comes to at `delta` over all planned rounds."""
    canaries: int
    inserted: int
    """How many of the coins fell on insertion; each is fair and from the operating system."""
    confidence: float
    """With which everything that decides holds together."""
    bounds: tuple[BoundRecord, ...]
    estimates: tuple[EstimateRecord, ...] = ()
    claims: tuple[ClaimRecord, ...] = ()
    checks: tuple[CheckRecord, ...] = ()
    seconds: float
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def lower_bound(self) -> float:
        """The largest bound that decides; 0.0 without one."""
        return max((bound.epsilon for bound in self.bounds if bound.decides), default=0.0)

    @property
    def against(self) -> tuple[str, ...]:
        """What speaks against the claim, one sentence each; nothing where the audit is passed."""
        bounds = [b for b in self.bounds if b.decides and b.epsilon > self.claimed_epsilon]
        return (
            *(
                f"the {b.attack} attack shows ε ≥ {b.epsilon:.3f} ({b.method}), more than the ε = "
                f"{self.claimed_epsilon:.3f} that is claimed"
                for b in bounds
            ),
            *(
                f"the {c.attack} attack does better than the claimed privacy curve allows (p = {c.p_value:.2g})"
                for c in self.claims
                if c.refuted
            ),
            *(f"{check.name}: {check.found}" for check in self.checks if not check.holds),
        )

    @property
    def passed(self) -> bool:
        """Does nothing speak against the claim? That is no proof of it."""
        return not self.against

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "AuditResult":
        """Read what `write` wrote; raises RunError where it is not that."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise RunError(f"{path} is no audit that this version can read: run `fedtune audit run` again") from error
