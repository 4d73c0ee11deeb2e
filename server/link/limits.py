"""What a coordinator grants its clients beside the link's own limits."""

from dataclasses import dataclass

from fedtune.errors import TransportError
from protos.limits import LinkLimits


@dataclass(frozen=True, slots=True)
class CoordinatorLimits(LinkLimits):
    """The link's limits, and how long and how many clients the coordinator puts up with."""

    away_s: float = 60.0
    """A message to a client that has been away for so long gets an error reply."""
    hello_timeout_s: float = 10.0
    """For the TLS handshake, and again for the first frame."""
    max_clients: int = 1024
    """Clients connected at once."""
    max_deliveries: int = 3
    """How often a message goes to a client that restarts while it works on it."""

    def __post_init__(self) -> None:
        """Refuse values that could not work."""
        LinkLimits.__post_init__(self)
        if min(self.away_s, self.hello_timeout_s) <= 0 or min(self.max_clients, self.max_deliveries) < 1:
            raise TransportError("away_s and hello_timeout_s must be > 0, max_clients and max_deliveries at least 1")
