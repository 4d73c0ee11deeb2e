"""The `[simulation]` section: the clients' devices, links, availability and failures, in virtual time."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from fedtune.recipe.base import Section

DeviceClass = Annotated[str, StringConstraints(pattern=r"^[^=:]+=[0-9.]+:[0-9.]+$")]
Failure = Annotated[str, StringConstraints(pattern=r"^[^=]+=[1-9][0-9]*(:(training|upload))?$")]


class SimulationSection(Section):
    """Simulated devices and the virtual time that they take; nothing is simulated, and no clock runs, as it stands."""

    rows_per_s: float = Field(0.0, ge=0)
    """Rows that a client trains on in a virtual second, the median over clients; 0: computing takes no time."""
    device_classes: tuple[DeviceClass, ...] = ()
    """Kinds of devices in place of `rows_per_s`, as `name=share:rows_per_s`: ["phone=0.7:4", "laptop=0.3:40"]. The
    shares are weights; each client is of one kind for the whole run."""
    speed_spread: float = Field(0.0, ge=0, le=5)
    """σ of the log-normal factor between clients' speeds; 0: all alike."""
    jitter: float = Field(0.0, ge=0, le=5)
    """σ of the log-normal factor on a client's computing and transfers that is drawn anew each round."""
    down_mbps: float = Field(0.0, ge=0)
    """Megabits a second to a client, the median over clients; 0: a download takes no time."""
    up_mbps: float = Field(0.0, ge=0)
    """Megabits a second from a client, the median over clients; 0: an upload takes no time."""
    bandwidth_spread: float = Field(0.0, ge=0, le=5)
    """σ of the log-normal factor between clients' links, one for both directions."""
    latency_s: float = Field(0.0, ge=0)
    """Seconds that an exchange takes beside its bytes and the work, the median over clients."""
    latency_spread: float = Field(0.0, ge=0, le=5)
    """σ of the log-normal factor between clients' latencies."""
    availability: Literal["always", "diurnal", "trace"] = "always"
    """When clients are online: `always`; `diurnal`: while a sine of one day and a phase of the client's own is high;
    `trace`: as a file says."""
    online_share: float = Field(0.5, gt=0, le=1)
    """The share of a day that a client of `diurnal` is online."""
    day_s: float = Field(86_400.0, gt=0)
    """How long a day of `diurnal` is, in virtual seconds."""
    phase_spread: float = Field(1.0, ge=0, le=1)
    """Over which share of a day the clients' phases lie: 0 has all online at the same hours, 1 has as many at any."""
    trace: str = ""
    """A CSV file with the columns `client`, `start` and `end`: who is online from when to when, in virtual seconds."""
    fail_before_training: float = Field(0.0, ge=0, le=1)
    """The probability that an asked client dies before it trains, in each round."""
    fail_in_upload: float = Field(0.0, ge=0, le=1)
    """The probability that an asked client dies amid its upload, in each round."""
    failures: tuple[Failure, ...] = ()
    """Who dies when, as `client=round` or `client=round:phase`: ["client-7=3", "client-2=4:upload"]; the phase is
    `training` (before it) unless it is `upload`."""

    @property
    def active(self) -> bool:
        """Does a virtual clock run?"""
        takes_time = self.rows_per_s or self.device_classes or self.down_mbps or self.up_mbps or self.latency_s
        fails = self.fail_before_training or self.fail_in_upload or self.failures
        return bool(takes_time or fails) or self.availability != "always"
