"""Pins what `protos.flower` assumes of flwr 1.41: when Flower moves a private name, this is what fails."""

import contextlib

import flwr
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtune.errors import MalformedMessage
from protos import flower


@pytest.fixture(autouse=True)
def _identity() -> None:
    flower.set_identity(run_id=7)


def _content(payload: bytes = b"\x00\x01\xff") -> RecordDict:
    array = Array("uint8", (len(payload),), "fedtune.update", payload)
    return RecordDict(
        {
            "arrays": ArrayRecord({"update": array}),
            "metrics": MetricRecord({"loss": 0.5, "num-examples": 3}),
            "config": ConfigRecord({"name": "a", "raw": b"\x01", "flag": True}),
        }
    )


def test_the_pinned_flower() -> None:
    assert flwr.__version__.startswith("1.41.")


def test_error_codes_are_flowers_own() -> None:
    assert (flower.UNKNOWN_ERROR, flower.NODE_UNAVAILABLE, flower.CLIENT_APP_CRASHED) == (0, 5, 8)
    assert flower.CLIENT_APP_RAISED_EXCEPTION == 2


def test_a_message_knows_the_identity_that_was_set() -> None:
    flower.set_identity(run_id=41, node_id=1)
    message = flower.make_message(_content(), 9, "train", group_id="3", ttl_s=60, message_id="m1")
    meta = message.metadata
    assert (meta.run_id, meta.src_node_id, meta.dst_node_id, meta.message_id) == (41, 1, 9, "m1")
    assert (meta.group_id, meta.ttl, meta.message_type) == ("3", 60, "train")


def test_a_reply_goes_back_to_the_sender_and_names_the_message() -> None:
    message = flower.make_message(_content(), 9, "train", message_id="m1")
    reply = flower.make_reply(_content(), to=message)
    assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (9, 1)
    assert reply.metadata.reply_to_message_id == "m1"
    assert reply.metadata.message_id


def test_an_error_reply_names_the_failing_node_and_survives_the_wire() -> None:
    message = flower.make_message(_content(), 9, "train", message_id="m1")
    reply = flower.message_from_bytes(
        flower.message_to_bytes(flower.make_error_reply(flower.NODE_UNAVAILABLE, "gone", to=message))
    )
    assert reply.has_error()
    assert (reply.error.code, reply.error.reason, reply.metadata.src_node_id) == (5, "gone", 9)


@given(st.binary(max_size=2048))
def test_a_custom_stype_array_survives_the_wire_bit_for_bit(payload: bytes) -> None:
    message = flower.make_message(_content(payload), 9, "train.gradient", message_id="m1")
    again = flower.message_from_bytes(flower.message_to_bytes(message))
    assert again.content["arrays"]["update"].data == payload
    assert again.content["arrays"]["update"].stype == "fedtune.update"
    assert again.content["config"] == message.content["config"]
    assert again.content["metrics"] == message.content["metrics"]
    assert again.metadata == message.metadata


def test_body_and_head_read_back_as_the_message() -> None:
    content = _content(b"x" * 1000)
    body = flower.body_to_bytes(content)
    for node in (4, 5):
        message = flower.make_message(content, node, "train")
        again = flower.message_from_bytes(body + flower.message_to_bytes(flower.head_of(message)))
        assert again.metadata.dst_node_id == node
        assert again.content["arrays"]["update"].data == b"x" * 1000
        assert message.has_content()


@settings(max_examples=300)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_message_or_malformed_and_nothing_else(raw: bytes) -> None:
    try:
        message = flower.message_from_bytes(raw)
    except MalformedMessage:
        return
    assert message.has_content() != message.has_error()


@given(st.data())
def test_a_message_with_flipped_or_missing_bytes_raises_nothing_but_malformed(data: st.DataObject) -> None:
    raw = bytearray(flower.message_to_bytes(flower.make_message(_content(b"abc" * 20), 9, "train")))
    for position in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
        raw[position] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(MalformedMessage):
        flower.message_from_bytes(bytes(raw[: data.draw(st.integers(0, len(raw)))]))


def test_isolated_messages_share_no_records_but_the_array_bytes() -> None:
    content = _content(b"y" * 64)
    first, second = (flower.isolate(flower.make_message(content, node, "train")) for node in (4, 5))
    first.content["config"]["name"] = "changed"
    assert second.content["config"]["name"] == "a"
    assert first.content["arrays"]["update"].data is second.content["arrays"]["update"].data


def test_a_grid_of_our_own_runs_a_stock_flower_strategy() -> None:
    from flwr.serverapp.strategy import FedAvg

    class Echo(flower.OwnGrid):
        """Adds one on every node."""

        def get_node_ids(self) -> list[int]:
            return [11, 12]

        def push_messages(self, messages: list[Message]) -> list[str]:
            raise NotImplementedError

        def pull_messages(self, message_ids: list[str]) -> list[Message]:
            raise NotImplementedError

        def send_and_receive(self, messages: list[Message], *, timeout: float | None = None) -> list[Message]:
            del timeout
            return [self._answer(flower.isolate(m)) for m in messages]

        @staticmethod
        def _answer(message: Message) -> Message:
            w = message.content["arrays"]["w"].numpy() + 1
            metrics = MetricRecord({"num-examples": 2})
            return flower.make_reply(
                RecordDict({"arrays": ArrayRecord({"w": Array(w)}), "metrics": metrics}), to=message
            )

    grid = Echo(run_id=3)
    assert grid.run.run_id == 3
    assert [node.node_id for node in grid.get_nodes()] == [11, 12]
    result = FedAvg(fraction_evaluate=0.0).start(
        grid=grid, initial_arrays=ArrayRecord({"w": Array(np.zeros(3, np.float32))}), num_rounds=2
    )
    assert result.arrays["w"].numpy().tolist() == [2, 2, 2]
