"""All clients of a coordinator, those that are connected and those that are away; lives in the link's thread only."""

import time
from collections.abc import Iterable

from protos.flower import Message
from protos.names import node_id
from protos.transfer import Payload
from server.link.limits import CoordinatorLimits
from server.link.node import Node, NodeStatus
from server.link.replies import ReplyBox

Parcel = tuple[str, Message, Payload]
"""A message's id, its head and its bytes."""


class Nodes:
    """Finds the node of a name or an id, and makes it where it is not known yet."""

    def __init__(self, limits: CoordinatorLimits, box: ReplyBox) -> None:
        self._limits = limits
        self._box = box
        self._nodes: dict[int, Node] = {}

    def named(self, name: str) -> Node:
        """The node of a client that has proved its name."""
        node = self._by_id(node_id(name))
        node.name = name
        return node

    def push(self, parcels: Iterable[Parcel]) -> None:
        """Send each message to the node that it names."""
        for message_id, head, payload in parcels:
            self._by_id(head.metadata.dst_node_id).push(message_id, head, payload)

    def forget(self, message_ids: Iterable[str]) -> None:
        """Withdraw messages wherever they are."""
        wanted = set(message_ids)
        for node in self._nodes.values():
            for message_id in wanted & node.unanswered.keys():
                node.forget(message_id)

    def asked(self, name: str, round_: int) -> bool:
        """Has this client a message of this round that it has not answered?"""
        node = self._nodes.get(node_id(name))
        return node is not None and any(
            unanswered.head.metadata.group_id == str(round_) for unanswered in node.unanswered.values()
        )

    def connected(self) -> list[int]:
        """The ids of the nodes that are connected and were heard of lately, in a stable order."""
        since = time.monotonic() - self._limits.silence_s
        return sorted(n.node_id for n in self._nodes.values() if n.connection and n.last_seen >= since)

    def name_of(self, node_id: int) -> str:
        """The name of a client; `node-ID` where it never connected."""
        node = self._nodes.get(node_id)
        return node.name if node and node.name else f"node-{node_id}"

    def statuses(self) -> list[NodeStatus]:
        """What is known of each client, by name."""
        now = time.monotonic()
        return sorted((node.status(now) for node in self._nodes.values()), key=lambda status: status.name)

    def status(self, node_id: int) -> NodeStatus:
        """What is known of one client."""
        return self._by_id(node_id).status(time.monotonic())

    def sweep(self) -> None:
        """Answer in the place of those who have been away for too long."""
        now = time.monotonic()
        for node in self._nodes.values():
            node.give_up_if_away(now)

    def _by_id(self, node_id: int) -> Node:
        if node_id not in self._nodes:
            self._nodes[node_id] = Node(node_id, self._limits, self._box)
        return self._nodes[node_id]
