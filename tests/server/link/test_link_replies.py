"""The box of replies: each is handed out once, and waiting does not spin."""

import threading
import time

from flwr.app import RecordDict
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protos import flower
from server.link.replies import Reply, ReplyBox


def _reply(text: str = "x") -> Reply:
    flower.set_identity(1)
    head = flower.head_of(flower.make_message(RecordDict(), 5, "train", message_id="m"))
    return Reply(head, code=flower.NODE_UNAVAILABLE, failure=text)


IDS = st.sampled_from(["a", "b", "c"])


class Box(RuleBasedStateMachine):
    """Against a model: the ids that are expected, and those whose reply is here."""

    def __init__(self) -> None:
        super().__init__()
        self.box = ReplyBox()
        self.expected: set[str] = set()
        self.ready: set[str] = set()

    @rule(name=IDS)
    def expect(self, name: str) -> None:
        self.box.expect([name])
        self.expected.add(name)

    @rule(name=IDS)
    def put(self, name: str) -> None:
        self.box.put(name, _reply(name))
        if name in self.expected:
            self.expected.discard(name)
            self.ready.add(name)

    @rule(names=st.lists(IDS, unique=True))
    def take(self, names: list[str]) -> None:
        taken = {reply.failure for reply in self.box.take(names)}
        assert taken == self.ready & set(names)
        self.ready -= taken

    @rule(names=st.lists(IDS))
    def forget(self, names: list[str]) -> None:
        self.box.forget(names)
        self.expected -= set(names)
        self.ready -= set(names)

    @rule(names=st.lists(IDS))
    def wait_for_some(self, names: list[str]) -> None:
        assert self.box.wait(0, names) == bool(self.ready & set(names))

    @invariant()
    def waiting_tells_whether_any_is_here(self) -> None:
        assert self.box.wait(0) == bool(self.ready)


TestBox = Box.TestCase
TestBox.settings = settings(max_examples=60, deadline=None)


def test_a_waiting_thread_wakes_at_once() -> None:
    box = ReplyBox()
    box.expect(["a"])
    timer = threading.Timer(0.1, box.put, ("a", _reply()))
    timer.start()
    start = time.monotonic()
    assert box.wait(5)
    assert time.monotonic() - start < 0.5


def test_an_error_reply_names_the_node_that_failed() -> None:
    message = _reply("gone").read()
    assert (message.metadata.src_node_id, message.metadata.reply_to_message_id) == (5, "m")
    assert message.error.reason == "gone"
