"""The sizes and times that a link is held to; the coordinator's count, and its Welcome tells them to the client."""

from dataclasses import dataclass

from fedtune.errors import TransportError

PROTOCOL = 1
"""The version that both sides must speak."""
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
MAX_CHUNK_BYTES = 4 * MIB
"""No side takes a larger frame, whatever was agreed."""
MAX_MESSAGE_BYTES = 1 * GIB
"""The largest message, where no other limit is given."""
FRAME_ROOM_BYTES = 64 * KIB
"""What a frame may hold beside its data."""
MAX_TRANSFER_ID = 64
"""Characters of a transfer id."""
MAX_WAITING_FRAMES = 1024
"""Answers to a peer that does not read them."""


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """What one link may hold, and how long it may be silent.

    Guarantees: a side never holds more than `max_open_transfers * max_message_bytes` of half-received messages for
    one peer, and no more than `window_bytes` (and one chunk) are on the way unacknowledged.

    Raises:
        TransportError: where a value could not work.
    """

    heartbeat_s: float = 5.0
    """Each side sends something at least this often."""
    missed_heartbeats: int = 3
    """A peer that is silent for so many heartbeats is gone."""
    max_message_bytes: int = MAX_MESSAGE_BYTES
    chunk_bytes: int = 512 * KIB
    window_bytes: int = 4 * MIB
    max_open_transfers: int = 4
    """Half-received messages of one peer."""
    max_faults: int = 3
    """Damaged chunks of one transfer before it is rejected."""

    def __post_init__(self) -> None:
        """Refuse values that could not work."""
        if not 0.05 <= self.heartbeat_s <= 300:
            raise TransportError(f"heartbeat_s must be between 0.05 and 300 seconds, got {self.heartbeat_s}")
        if not 1 <= self.chunk_bytes <= MAX_CHUNK_BYTES:
            raise TransportError(f"chunk_bytes must be between 1 and {MAX_CHUNK_BYTES}, got {self.chunk_bytes}")
        if self.window_bytes < self.chunk_bytes:
            raise TransportError(
                f"window_bytes must be at least chunk_bytes, {self.chunk_bytes}; got {self.window_bytes}"
            )
        if not 1 <= self.max_message_bytes < 2 * GIB:
            raise TransportError(f"max_message_bytes must be between 1 and 2 GiB - 1, got {self.max_message_bytes}")
        if min(self.max_open_transfers, self.missed_heartbeats, self.max_faults) < 1:
            raise TransportError("max_open_transfers, missed_heartbeats and max_faults must be at least 1")

    @property
    def silence_s(self) -> float:
        """After how many seconds without a frame a peer is gone."""
        return self.heartbeat_s * self.missed_heartbeats
