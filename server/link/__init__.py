"""The coordinator's end of the link: a Flower `Grid` over one gRPC stream a client."""

from server.link.grid import LinkGrid
from server.link.limits import CoordinatorLimits
from server.link.node import NodeStatus, Traffic

__all__ = ["CoordinatorLimits", "LinkGrid", "NodeStatus", "Traffic"]
