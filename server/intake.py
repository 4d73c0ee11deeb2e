"""A round's intake: each reply is read, checked and added, or set aside with a named reason."""

from collections.abc import Callable

from fedtune.aggregation import Aggregator, Contribution
from fedtune.aggregation.validate import check_delta, check_examples, check_origin
from fedtune.aggregation.weights import weigh
from fedtune.compression import Pipeline
from fedtune.errors import DuplicateUpdate, FedtuneError, MalformedMessage, UnknownClient
from fedtune.recipe import AggregationSection
from fedtune.runs.record import ClientRecord
from fedtune.seeds import derive_seed
from fedtune.split.copies import BodyCopies
from fedtune.split.counted import BODY_DOWN, BODY_UP
from fedtune.state import shapes_of
from fedtune.wire import Refusal, Task, Update, decode
from server.copies import Copies
from server.exchange import Reply
from server.expected import Expected


class Intake:
    """Takes the replies to one task.

    Guarantees: a reply that is refused has not touched the aggregator; one client counts at most once.
    """

    def __init__(
        self,
        task: Task,
        expected: Callable[[str, int], Expected],
        aggregator: Aggregator,
        pipeline: Pipeline,
        section: AggregationSection,
        *,
        seed: int,
        copies: Copies | None = None,
        withheld: bool = False,
        bodies: BodyCopies | None = None,
        share: float = 1.0,
    ) -> None:
        """`withheld`: under privacy nothing counts that a client says of its rows beside its update.

        `bodies`: the clients' copies of a body; each update is joined with its client's, or does not count.
        `share`: how much of each delta counts, while its weight stays what it is.
        """
        self._share = share
        self._bodies = bodies
        self._task = task
        self._expected = expected
        self._aggregator = aggregator
        self._pipeline = pipeline
        self._section = section
        self._seed = seed
        self._copies = copies
        self._withheld = withheld
        self._seen: set[str] = set()
        self._loss_sum = 0.0
        self._loss_weight = 0.0
        self.accepted = 0

    @property
    def train_loss(self) -> float | None:
        """The accepted clients' mean training loss, weighted as their updates; None where they withhold it."""
        return self._loss_sum / self._loss_weight if self._loss_weight else None

    def take(self, reply: Reply, *, bytes_down: int) -> ClientRecord:
        """Add one reply, or say in its record why not."""
        record = self._judge(reply, bytes_down)
        if self._bodies and record.outcome != "ok":
            self._bodies.drop(reply.client)
        return record

    def _judge(self, reply: Reply, bytes_down: int) -> ClientRecord:
        if reply.failure:
            return self._record(reply, bytes_down, reply.failure, reply.detail)
        try:
            return self._add(reply, bytes_down)
        except FedtuneError as error:
            return self._record(reply, bytes_down, error.reason, str(error))

    def _add(self, reply: Reply, bytes_down: int) -> ClientRecord:
        message = decode(reply.data)
        if isinstance(message, Refusal):
            return self._record(reply, bytes_down, message.reason, message.message)
        if not isinstance(message, Update):
            raise MalformedMessage(f"the reply is a {type(message).__name__}, not an update")
        self._check_sender(message, reply.client)
        check_origin(
            message,
            run=self._task.run,
            round_=self._task.round,
            base=self._task.base,
            stages=self._pipeline.names,
        )
        check_examples(message.examples, self._section)
        expected = self._expected(reply.client, message.rank)
        seed = derive_seed(self._seed, "upload", round_=self._task.round, client=reply.client)
        sent = self._pipeline.decode(message.tensors, expected.shapes, seed=seed)
        check_delta(sent, expected.shapes, self._section)
        delta = sent
        if self._copies:
            delta = self._copies.delta(reply.client, sent, message.feedback_round)
            check_delta(delta, expected.shapes, self._section)
        if message.control or expected.control:
            check_delta(message.control, expected.control, self._section)
        if self._bodies:
            delta = {**delta, **self._bodies.take(self._task.run, self._task.round, reply.client)}
            check_delta(delta, shapes_of(delta), self._section)
        if self._share != 1.0:
            delta = {name: (tensor.double() * self._share).float() for name, tensor in delta.items()}
        weight = weigh(message.examples, self._section)
        self._aggregator.add(Contribution(reply.client, delta, weight, expected.slots, message.control))
        if self._copies:
            self._copies.accept(reply.client, sent, message.feedback_round, self._task.round)
        return self._count(reply, bytes_down, message, weight)

    def _check_sender(self, message: Update, client: str) -> None:
        if message.client != client:
            raise UnknownClient("the update names another client than the one that sent it")
        if client in self._seen:
            raise DuplicateUpdate("the client has already sent an update for this round")

    def _count(self, reply: Reply, bytes_down: int, message: Update, weight: float) -> ClientRecord:
        self._seen.add(reply.client)
        self.accepted += 1
        metrics = {} if self._withheld else message.metrics
        loss = metrics.get("loss")
        if loss is not None:
            self._loss_sum += weight * loss
            self._loss_weight += weight
        seconds = reply.seconds if reply.virtual else metrics.get("seconds", reply.seconds)
        return ClientRecord(
            client=reply.client,
            outcome="ok",
            examples=0 if self._withheld else message.examples,
            loss=loss,
            seconds=seconds,
            bytes_down=bytes_down,
            bytes_up=len(reply.data),
            body_down=_whole(metrics.get(BODY_DOWN, 0.0)),
            body_up=_whole(metrics.get(BODY_UP, 0.0)),
            rank=message.rank,
        )

    def _record(self, reply: Reply, bytes_down: int, outcome: str, detail: str) -> ClientRecord:
        return ClientRecord(
            client=reply.client,
            outcome=outcome,
            detail=detail,
            seconds=reply.seconds,
            bytes_down=bytes_down,
            bytes_up=len(reply.data),
        )


def _whole(count: float) -> int:
    """Bytes that a client says it counted."""
    return int(min(max(count, 0.0), 2.0**53))
