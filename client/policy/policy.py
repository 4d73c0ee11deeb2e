"""The policy file's keys: what a data owner allows to be asked of one data set."""

import datetime
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator

from client.policy.hours import Hours
from fedtune.privacy.plan import Trust
from fedtune.recipe.adapter import AdapterKind, Initialisation
from fedtune.recipe.aggregation import SchemeName
from fedtune.recipe.base import Section

Unit = Literal["example", "client"]


class BudgetSection(Section):
    """The cap over all runs and coordinators, for ever."""

    epsilon: float = Field(gt=0)
    """No task is taken on that would bring the data set's ε above this, at `delta`."""
    delta: float = Field(gt=0, lt=0.1)
    """The δ at which the owner counts, whatever a recipe's own is; below one over the number of rows."""


class Policy(Section):
    """One data set's policy. What is left empty is not limited."""

    dataset: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """The data set's own name: its book is kept under it, wherever the rows lie and whoever asks."""
    units: tuple[Unit, ...] = ("example",)
    """Which units of privacy a recipe may have: "example" hides each row, "client" this client as a whole."""
    trust: Trust = "coordinator"
    """Who may be the one that adds the noise; "client" refuses recipes whose noise the coordinator adds."""
    without_privacy: bool = False
    """Allow recipes without any privacy, which no ε bounds; their rounds then stay outside of the budget."""
    noise_multiplier_min: float = Field(0.0, ge=0)
    """The least noise, as a multiple of the clip."""
    models: tuple[str, ...] = ()
    """Base models, by the name that a recipe gives or by their fingerprint."""
    adapters: tuple[AdapterKind, ...] = ()
    """Kinds of adapter."""
    schemes: tuple[SchemeName, ...] = ()
    """Schemes of aggregation."""
    init: tuple[Initialisation, ...] = ()
    """Ways in which the adapter may start."""
    max_steps_per_round: int | None = Field(None, ge=1)
    """Local steps of one round."""
    max_rounds_per_run: int | None = Field(None, ge=1)
    """Rounds of one run that this data set takes part in."""
    hours: str = ""
    """When tasks are taken on, as in "20:00-06:00"; one that has begun is finished."""
    timezone: str = ""
    """The time zone of `hours`, as in "Europe/Berlin"; this machine's where it is empty."""
    expires: datetime.date | None = None
    """The last day on which the policy allows anything."""
    budget: BudgetSection | None = None
    """Without it there is no cap, and what is spent is written down all the same."""

    @field_validator("hours")
    @classmethod
    def _hours_are_hours(cls, text: str) -> str:
        if text:
            Hours.parse(text)
        return text

    @field_validator("timezone")
    @classmethod
    def _zone_exists(cls, name: str) -> str:
        try:
            ZoneInfo(name or "UTC")
        except (KeyError, ValueError, OSError) as error:
            raise ValueError('must be a time zone that this machine knows, as in "Europe/Berlin"') from error
        return name

    def now(self, moment: datetime.datetime) -> datetime.datetime:
        """`moment` on the wall clock of the policy's time zone."""
        return moment.astimezone(ZoneInfo(self.timezone) if self.timezone else None)
