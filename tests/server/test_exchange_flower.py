"""What Flower's own grid answers to a push that fails: `None` for a message, or no ids at all."""

import pytest
from flwr.app import Message

from protos.flower import OwnGrid, make_reply
from server.exchange import Exchange
from server.roster import Roster


class Picky(OwnGrid):
    """Takes messages as `HttpGrid` does: those to `refused` nodes come back without an id, too large ones all fail."""

    def __init__(self, refused: set[int], too_large: bool = False) -> None:
        super().__init__(run_id=3)
        self._refused = refused
        self._too_large = too_large
        self._taken: dict[str, Message] = {}

    def get_node_ids(self) -> list[int]:
        return [11, 12, 13]

    def push_messages(self, messages: list[Message]) -> list[str | None]:
        if self._too_large:
            return []
        good = {m.metadata.message_id: m for m in messages if m.metadata.dst_node_id not in self._refused}
        self._taken.update(good)
        return [m.metadata.message_id if m.metadata.message_id in good else None for m in messages]

    def pull_messages(self, message_ids: list[str]) -> list[Message]:
        found = [self._taken.pop(key) for key in message_ids if key in self._taken]
        return [make_reply(message.content, to=message) for message in found]

    def send_and_receive(self, messages: list[Message], *, timeout: float | None = None) -> list[Message]:
        raise NotImplementedError


@pytest.mark.parametrize(("refused", "too_large", "lost"), [({12}, False, 1), (set(), True, 3), (set(), False, 0)])
def test_messages_that_flower_did_not_take_are_unavailable_clients_at_once(
    refused: set[int], too_large: bool, lost: int
) -> None:
    grid = Picky(refused, too_large)
    roster = Roster(grid)
    payloads = {name: name.encode() for name in roster.refresh()}
    replies = list(Exchange(grid, roster, max_bytes=99).ask(payloads, message_type="train", round_=1, deadline_s=5))
    assert sorted(reply.client for reply in replies) == ["node-11", "node-12", "node-13"]
    assert [reply.failure for reply in replies].count("unavailable") == lost
    assert all(reply.data == reply.client.encode() for reply in replies if not reply.failure)
