"""Scores of a global state: on the coordinator's own test rows, and on the clients' held-out rows."""

from fedtune.aggregation import Global
from fedtune.data.base import Rows
from fedtune.errors import FedtuneError, MalformedMessage, StaleUpdate, UnknownClient
from fedtune.runs.record import ClientRecord, ScoreRecord
from fedtune.training.base import LocalStep, Score
from fedtune.wire import Evaluation, Refusal, Task, decode
from server.exchange import Exchange, Reply
from server.listener import Listener
from server.tasking import Tasking


def score_centrally(step: LocalStep, world: Global, rows: Rows | None) -> ScoreRecord | None:
    """The score on the coordinator's test rows; None where it has none."""
    return None if rows is None else as_record(step.evaluate(world.state, rows, world.shift))


def score_federated(
    exchange: Exchange, task: Task, names: list[str], tasking: Tasking, *, deadline_s: float, listener: Listener
) -> ScoreRecord | None:
    """The score over all rows that the asked clients hold out, summed; None where nobody scored."""
    total = Score(0, 0.0, 0.0)
    payloads = tasking.payloads(task, names)
    listener.asked(task.round, len(payloads), "evaluate")
    scores: dict[str, Score] = {}
    for reply in exchange.ask(payloads, message_type="evaluate", round_=task.round, deadline_s=deadline_s):
        record = _take(reply, task, scores, bytes_down=len(payloads[reply.client]))
        tasking.heard(reply.client, record.outcome)
        listener.replied(record, "evaluate")
    for client in sorted(scores):
        score = scores[client]
        total = Score(total.examples + score.examples, total.loss_sum + score.loss_sum, total.correct + score.correct)
    return as_record(total) if total.examples else None


def as_record(score: Score) -> ScoreRecord:
    """A score as it stands in `rounds.jsonl`."""
    return ScoreRecord(examples=score.examples, loss=score.loss, accuracy=score.accuracy)


def _take(reply: Reply, task: Task, scores: dict[str, Score], *, bytes_down: int) -> ClientRecord:
    outcome, detail = reply.failure, reply.detail
    if not outcome:
        try:
            outcome, detail = _add(reply, task, scores)
        except FedtuneError as error:
            outcome, detail = error.reason, str(error)
    return ClientRecord(
        client=reply.client,
        outcome=outcome,
        detail=detail,
        seconds=reply.seconds,
        bytes_down=bytes_down,
        bytes_up=len(reply.data),
    )


def _add(reply: Reply, task: Task, scores: dict[str, Score]) -> tuple[str, str]:
    message = decode(reply.data)
    if isinstance(message, Refusal):
        return message.reason, message.message
    if not isinstance(message, Evaluation):
        raise MalformedMessage(f"the reply is a {type(message).__name__}, not an evaluation")
    if message.client != reply.client:
        raise UnknownClient("the evaluation names another client than the one that sent it")
    if (message.run, message.round, message.base) != (task.run, task.round, task.base):
        raise StaleUpdate("the evaluation was made for another run, round or global state")
    if message.correct > message.examples:
        raise MalformedMessage("the evaluation counts more right answers than examples")
    scores[reply.client] = Score(message.examples, message.loss_sum, message.correct)
    return "ok", ""
