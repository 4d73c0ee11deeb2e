"""The one module that imports Flower's private names: messages as bytes, identities, and the base of our own `Grid`s.

Flower moves its private modules between minor releases;
`tests/protos/test_flower_contract.py` pins what is assumed here.
"""

import uuid
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto, recorddict_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from google.protobuf.message import DecodeError

from fedtune.errors import MalformedMessage

__all__ = [
    "CLIENT_APP_CRASHED",
    "CLIENT_APP_RAISED_EXCEPTION",
    "NODE_UNAVAILABLE",
    "SERVER_NODE_ID",
    "UNKNOWN_ERROR",
    "Message",
    "NodeInfo",
    "OwnGrid",
    "Run",
    "body_to_bytes",
    "empty_run",
    "fresh_message_id",
    "head_of",
    "isolate",
    "make_error_reply",
    "make_message",
    "make_reply",
    "message_from_bytes",
    "message_to_bytes",
    "set_identity",
    "stamp",
]

SERVER_NODE_ID = 1
"""The node id that Flower gives to the ServerApp."""
UNKNOWN_ERROR: int = ErrorCode.UNKNOWN
NODE_UNAVAILABLE: int = ErrorCode.NODE_UNAVAILABLE
CLIENT_APP_RAISED_EXCEPTION: int = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
CLIENT_APP_CRASHED: int = ErrorCode.CLIENT_APP_CRASHED


def set_identity(run_id: int, node_id: int = SERVER_NODE_ID, task_id: int = 1) -> None:
    """Tell Flower who this process is; without it `Message(content, dst_node_id, message_type)` raises.

    The identity is global to the process.
    """
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = task_id, run_id, node_id


def empty_run(run_id: int) -> Run:
    """A Flower `Run` that says nothing but its id."""
    return Run.create_empty(run_id)


def fresh_message_id() -> str:
    """32 random hex digits."""
    return uuid.uuid4().hex


def make_message(
    content: RecordDict,
    dst_node_id: int,
    message_type: str,
    *,
    group_id: str = "",
    ttl_s: float | None = None,
    message_id: str = "",
) -> Message:
    """An instruction for one node; `set_identity` must have been called before."""
    message = Message(content, dst_node_id, message_type, ttl=ttl_s, group_id=group_id)
    return stamp(message, message_id=message_id or fresh_message_id())


def make_reply(content: RecordDict, to: Message) -> Message:
    """A reply with content, addressed by the message that it answers."""
    return stamp(Message(content, reply_to=to), message_id=fresh_message_id())


def make_error_reply(code: int, reason: str, to: Message) -> Message:
    """A reply that says why there is none; its `src_node_id` is the node that failed."""
    return stamp(Message(Error(code, reason), reply_to=to), message_id=fresh_message_id())


def stamp(message: Message, **fields: Any) -> Message:
    """The same message with metadata fields set, also the read-only ones (`message_id`, `src_node_id`)."""
    for name, value in fields.items():
        message.metadata.__dict__[f"_{name}"] = value
    return message


def isolate(message: Message) -> Message:
    """A copy that shares no mutable part: strategies put one `RecordDict` into all messages, and mods change it.

    Array bytes are immutable and stay shared, so this is cheap.
    """
    return deepcopy(message)


def body_to_bytes(content: RecordDict) -> bytes:
    """The content as protobuf field of a message: equal for all messages that share one `RecordDict`.

    `body_to_bytes(m.content) + message_to_bytes(head_of(m))` reads back as `m`: a broadcast is kept once.
    """
    return bytes(ProtoMessage(content=recorddict_to_proto(content)).SerializeToString())


def head_of(message: Message) -> Message:
    """A copy without the content: metadata of its own, and the error where there is one."""
    head = Message.__new__(Message)
    head.__dict__.update({**message.__dict__, "_metadata": deepcopy(message.metadata), "_content": None})
    return head


def message_to_bytes(message: Message) -> bytes:
    """A Flower message as protobuf bytes."""
    return bytes(message_to_proto(message).SerializeToString())


def message_from_bytes(raw: bytes | bytearray) -> Message:
    """A Flower message from the bytes of `message_to_bytes`.

    Raises:
        MalformedMessage: where the bytes are no Flower message; nothing else, whatever the bytes are.
    """
    try:
        proto = ProtoMessage.FromString(raw)  # type: ignore[arg-type]  # any buffer is taken
        if proto.HasField("content") == proto.HasField("error"):
            raise MalformedMessage(
                "a message must hold either content or an error, this one does not: it was cut short"
            )
        return message_from_proto(proto)
    except (DecodeError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise MalformedMessage(f"{len(raw)} bytes are no Flower message: {type(error).__name__}") from error


class OwnGrid(Grid):  # type: ignore[misc]  # flwr ships no types that strict mypy accepts
    """What every `Grid` of ours shares: the run, and messages that know it; the four verbs are the subclass's."""

    def __init__(self, run_id: int) -> None:
        self._run = empty_run(run_id)
        set_identity(run_id)

    def set_run(self, run: Run) -> None:
        """Work in this run from now on."""
        self._run = run
        set_identity(run.run_id)

    @property
    def run(self) -> Run:
        """The run that this grid works in."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """An instruction for one node (Flower's deprecated way to build one)."""
        return make_message(content, dst_node_id, message_type, group_id=group_id, ttl_s=ttl)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The nodes that can be asked now."""
        return [NodeInfo(node_id=node_id) for node_id in self.get_node_ids()]
