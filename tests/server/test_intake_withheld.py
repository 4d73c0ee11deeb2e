"""Under privacy a round hears of no loss, no count and no time that a client measured, whatever it sends."""

import pytest
import torch

from fedtune.aggregation import Global, make_aggregator
from fedtune.compression import make_pipeline
from fedtune.recipe import AggregationSection
from fedtune.recipe.compression import CompressionSection
from fedtune.state import digest, shapes_of
from fedtune.wire import Task, Update, encode
from server.exchange import Reply
from server.expected import Expected
from server.intake import Intake
from tests.worlds import frame_for

STATE = {"m.R": torch.zeros(3, 3)}
SECTION = AggregationSection(weights="uniform")
TASK = Task("train", "run-id", 5, {}, "ab", "cd", digest(STATE), STATE)


def intake_of(*, withheld):
    aggregator = make_aggregator(SECTION, frame_for(STATE))
    aggregator.begin(Global(STATE), 5)
    return Intake(
        TASK,
        lambda _client, _rank: Expected(None, shapes_of(STATE), {}),
        aggregator,
        make_pipeline(CompressionSection()),
        SECTION,
        seed=0,
        withheld=withheld,
    )


def reply(examples, metrics):
    update = Update("run-id", 5, "a", TASK.base, (), {"m.R": torch.ones(3, 3)}, examples, metrics)
    return Reply("a", encode(update), "", "", 0.25)


def test_an_update_that_says_nothing_beside_its_numbers_is_taken():
    intake = intake_of(withheld=True)
    record = intake.take(reply(1, {}), bytes_down=0)
    assert (record.outcome, record.loss, record.examples, record.seconds) == ("ok", None, 0, 0.25)
    assert intake.accepted == 1
    assert intake.train_loss is None


@pytest.mark.parametrize("withheld", [True, False])
def test_what_a_client_says_all_the_same_is_not_written_down(withheld):
    intake = intake_of(withheld=withheld)
    record = intake.take(reply(321, {"loss": 0.5, "seconds": 7.0}), bytes_down=0)
    told = (record.loss, record.examples, record.seconds, intake.train_loss)
    assert told == ((None, 0, 0.25, None) if withheld else (0.5, 321, 7.0, 0.5))
