"""What other services share with the link when they are served on its port."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import grpc

from server.link.door import Door
from server.link.limits import CoordinatorLimits


@dataclass(frozen=True, slots=True)
class Desk:
    """What the link lets a service beside it use; in the link's thread only."""

    door: Door
    limits: CoordinatorLimits
    asked: Callable[[str, int], bool]
    """Has the client of this name a message of this round that it has not answered?"""


class Beside(Protocol):
    """A service on the link's gRPC server: the same port, certificates and clients."""

    def attach(self, server: grpc.aio.Server, desk: Desk) -> None:
        """Register; called once, in the link's thread, before the server starts."""
        ...

    def detach(self) -> None:
        """The server has stopped; called in the link's thread."""
        ...
