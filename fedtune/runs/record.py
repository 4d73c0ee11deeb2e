"""What one round leaves behind: one line of `rounds.jsonl`."""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Record(BaseModel):
    # A diverged loss is written as "NaN", which every JSON reader takes and which reads back as a float.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class ScoreRecord(_Record):
    """A score of the global state after the round."""

    examples: int
    loss: float
    accuracy: float


class ClientRecord(_Record):
    """One asked client in one round."""

    client: str
    outcome: str
    """`ok`, `late`, or the reason of a refusal or quarantine (`no-data`, `non-finite-update`, …)."""
    detail: str = ""
    """One sentence where the outcome is not `ok`."""
    examples: int = 0
    loss: float | None = None
    """Mean local training loss."""
    seconds: float | None = None
    """From asking to the reply's arrival, virtual where a virtual clock runs; in other simulations the client's own
    compute time."""
    bytes_down: int = 0
    """Bytes of the messages to the client, as on the wire, without transport framing."""
    bytes_up: int = 0
    body_down: int = 0
    """Bytes of activations and gradients from a split model's body beside the messages, as the client counted them."""
    body_up: int = 0
    """The same to the body."""
    rank: int = 0
    """How many slots of the adapter the client trained, where that was fewer than all."""
    staleness: int = Field(0, exclude_if=lambda value: not value)
    """How many new models there were since the one that the client was sent; 0, and not written, where it was the
    newest."""

    @property
    def sent(self) -> int:
        """Bytes to the coordinator: messages, and what went to the body."""
        return self.bytes_up + self.body_up

    @property
    def received(self) -> int:
        """Bytes from the coordinator: messages, and what came from the body."""
        return self.bytes_down + self.body_down


class VirtualRecord(_Record):
    """One round on the virtual clock of simulated devices."""

    seconds: float
    """What the round took, waiting for clients and federated evaluation included."""
    clock_s: float
    """What the clock says at its end."""
    online: int
    """How many clients were online when it drew among them."""


class RoundRecord(_Record):
    """One round; round 0 is the evaluation of the initial state."""

    round: int
    """0 before training, then 1, 2, …"""
    finished_at: str
    """UTC, ISO 8601; empty where `hides_clients`."""
    seconds: float | None
    """Wall-clock seconds; None where `hides_clients`."""
    aggregated: bool
    """False for round 0 and for a round with too few good updates."""
    clients: tuple[ClientRecord, ...] = ()
    other_bytes_up: int = 0
    """Bytes that clients sent for federated evaluation and gradient initialisation, beside those of `clients`."""
    other_bytes_down: int = 0
    """Bytes that clients were sent for the same."""
    train_loss: float | None = None
    """Mean of the clients' losses, weighted as the updates."""
    update_norm: float | None = None
    """Euclidean norm of the step that the global state made."""
    product_error: float | None = None
    """How far the new global product is from the mean of the clients' products, relative; where it was measured."""
    central: ScoreRecord | None = None
    """On the central test set."""
    federated: ScoreRecord | None = None
    """On the clients' held-out rows, summed over rows."""
    best: bool = False
    """Is this the best evaluated round so far?"""
    state_digest: str = ""
    virtual: VirtualRecord | None = Field(None, exclude_if=lambda value: value is None)
    """None, and not written, where no virtual clock runs or it would tell how many clients were drawn."""

    @property
    def hides_clients(self) -> bool:
        """Is it kept back how many clients were drawn, and with it traffic and times, which would tell it?

        So it is under noise at the coordinator, whose ε counts on nobody else knowing the draw.
        """
        return self.seconds is None

    def staleness(self) -> float | None:
        """How stale the updates that counted were, in the mean; None where all were to the newest model."""
        counted = [client.staleness for client in self.clients if client.outcome == "ok"]
        return sum(counted) / len(counted) if any(counted) else None

    def bytes_up(self) -> int:
        """Bytes that all clients sent in this round; 0 where `hides_clients`."""
        return self.other_bytes_up + sum(c.sent for c in self.clients)

    def bytes_down(self) -> int:
        """Bytes that all clients were sent in this round; 0 where `hides_clients`."""
        return self.other_bytes_down + sum(c.received for c in self.clients)

    def as_json(self) -> dict[str, Any]:
        """JSON values, one line's worth; NaN and infinity as strings."""
        return dict(json.loads(self.model_dump_json()))
