"""The adversarial matrix: each bad update is set aside by name, the good ones are summed as if it had not come."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.aggregation import Global, make_aggregator
from fedtune.compression import make_pipeline
from fedtune.errors import WrongRank
from fedtune.recipe import AggregationSection
from fedtune.recipe.compression import CompressionSection
from fedtune.state import digest, shapes_of
from fedtune.wire import Refusal, Task, Update, encode
from server.exchange import Reply
from server.expected import Expected
from server.intake import Intake
from tests.worlds import frame_for

STATE = {"m.R": torch.zeros(3, 3), "head.w": torch.zeros(2, 4)}
SECTION = AggregationSection(max_examples=1000, max_norm=100.0)
TASK = Task("train", "run-id", 5, {}, "ab", "cd", digest(STATE), STATE)


def make_intake():
    aggregator = make_aggregator(SECTION, frame_for(STATE))
    aggregator.begin(Global(STATE), 5)
    return Intake(TASK, expect, aggregator, make_pipeline(CompressionSection()), SECTION, seed=0), aggregator


def expect(_client, claimed):
    """Rank 3 for everybody, and no other."""
    if claimed not in (0, 3):
        raise WrongRank(f"rank {claimed} was not given")
    return Expected(None, shapes_of(STATE), {})


def good_update(client="a", value=1.0, examples=10):
    tensors = {name: torch.full_like(tensor, value) for name, tensor in STATE.items()}
    return Update("run-id", 5, client, TASK.base, (), tensors, examples, {"loss": 0.5, "seconds": 1.0})


def reply(message, client=None):
    data = message if isinstance(message, bytes) else encode(message)
    return Reply(client or getattr(message, "client", "evil"), data, "", "", 0.1)


def with_tensor(name, tensor):
    return {**good_update().tensors, name: tensor}


def changed(**fields):
    return replace(good_update("evil"), **fields)


BAD = {
    "nan": (changed(tensors=with_tensor("m.R", torch.full((3, 3), math.nan))), "non-finite-update"),
    "inf": (changed(tensors=with_tensor("m.R", torch.full((3, 3), math.inf))), "non-finite-update"),
    "huge": (changed(tensors=with_tensor("m.R", torch.full((3, 3), 1e30))), "mismatched-update"),
    "shape": (changed(tensors=with_tensor("m.R", torch.zeros(9))), "mismatched-update"),
    "rank lie": (changed(tensors=with_tensor("m.R", torch.zeros(4, 4))), "mismatched-update"),
    "a rank that was not given": (changed(rank=2), "wrong-rank"),
    "control variates that nobody asked for": (changed(control={"m.R": torch.zeros(3, 3)}), "mismatched-update"),
    "dtype": (changed(tensors=with_tensor("m.R", torch.zeros(3, 3, dtype=torch.float64))), "mismatched-update"),
    "missing key": (changed(tensors={"m.R": torch.zeros(3, 3)}), "mismatched-update"),
    "extra key": (changed(tensors=with_tensor("x", torch.zeros(1))), "mismatched-update"),
    "no examples": (changed(examples=0), "weight-out-of-range"),
    "negative examples": (changed(examples=-15), "weight-out-of-range"),
    "a trillion examples": (changed(examples=10**12), "weight-out-of-range"),
    "another run": (changed(run="other"), "stale-update"),
    "last round": (changed(round=4), "stale-update"),
    "another base": (changed(base="ff"), "stale-update"),
    "another stage": (changed(stages=("fp16",)), "mismatched-update"),
    "somebody else's name": (reply(good_update("b"), client="evil"), "unknown-client"),
    "half a message": (reply(encode(changed())[:-20], client="evil"), "malformed-message"),
    "noise": (reply(b"\x00" * 500, client="evil"), "malformed-message"),
    "a task": (reply(encode(TASK), client="evil"), "malformed-message"),
    "a refusal": (Refusal("run-id", 5, "evil", "no-data", "nothing here"), "no-data"),
    "nothing": (Reply("evil", b"", "late", "no reply", 9.0), "late"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_update_is_named_and_leaves_no_trace(name):
    message, outcome = BAD[name]
    bad = message if isinstance(message, Reply) else reply(message)
    intake, aggregator = make_intake()
    intake.take(reply(good_update("a", 1.0, 10)), bytes_down=1)
    record = intake.take(bad, bytes_down=7)
    intake.take(reply(good_update("b", 4.0, 20)), bytes_down=1)
    assert record.outcome == outcome
    assert record.detail
    assert (record.bytes_down, record.bytes_up) == (7, len(bad.data))
    assert intake.accepted == 2
    assert aggregator.finish().state["m.R"].flatten().tolist() == [3.0] * 9


def test_a_second_update_of_one_client_is_not_counted():
    intake, aggregator = make_intake()
    assert intake.take(reply(good_update("a", 1.0)), bytes_down=0).outcome == "ok"
    assert intake.take(reply(good_update("a", 100.0)), bytes_down=0).outcome == "duplicate-update"
    assert aggregator.finish().state["m.R"][0, 0].item() == 1.0


def test_the_training_loss_is_weighted_as_the_updates():
    intake, _ = make_intake()
    assert intake.train_loss is None
    for client, examples, loss in (("a", 10, 1.0), ("b", 30, 3.0)):
        intake.take(reply(replace(good_update(client, examples=examples), metrics={"loss": loss})), bytes_down=0)
    assert intake.train_loss == pytest.approx(2.5)


@given(st.binary(max_size=400))
def test_no_bytes_whatever_crash_the_intake(data):
    intake, _ = make_intake()
    assert intake.take(Reply("evil", data, "", "", 0.0), bytes_down=0).outcome != "ok"
    assert intake.accepted == 0
