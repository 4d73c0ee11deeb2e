"""What one client's share of the body may hold at the coordinator, and for how long."""

from dataclasses import dataclass

from fedtune.errors import TransportError

MIB, GIB = 1 << 20, 1 << 30
FP32_BYTES = 4


@dataclass(frozen=True, slots=True)
class SplitLimits:
    """Limits per client, whatever it sends; each has one session.

    Raises:
        TransportError: where a value could not work.
    """

    in_flight: int = 64
    """Micro-batches that are not finished yet."""
    max_bytes: int = 2 * GIB
    """Inputs, kept graphs and answers together; graphs beyond it go, and are computed again when they are needed."""
    max_tensor_bytes: int = 256 * MIB
    """One tensor, as fp32."""
    max_clients: int = 64
    """Clients with a session at once."""
    away_s: float = 30.0
    """So long the inputs and answers of a lost connection wait for the next; its graphs go at once."""
    idle_s: float = 900.0
    """So long a client may owe the body something: to take an answer, to send the gradient of one that it took, or
    anything at all where nothing of it is there. Then its session ends. What the body itself owes takes its time."""

    def __post_init__(self) -> None:
        """Refuse values that could not work."""
        if min(self.in_flight, self.max_clients) < 1 or self.away_s < 0 or self.idle_s <= 0:
            raise TransportError("in_flight and max_clients must be at least 1, away_s at least 0, idle_s above 0")
        if not FP32_BYTES <= self.max_tensor_bytes <= self.max_bytes:
            raise TransportError(
                f"max_tensor_bytes must be between {FP32_BYTES} and max_bytes, {self.max_bytes}; "
                f"got {self.max_tensor_bytes}"
            )
