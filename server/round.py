"""One training round: ask, take in, finish; the pieces that the engine repeats."""

from collections.abc import Mapping
from dataclasses import dataclass

from fedtune.aggregation import Aggregator, Frame, Global, make_aggregator
from fedtune.aggregation.diagnose import Diagnosed
from fedtune.compression import make_pipeline
from fedtune.compression.feedback import feedback_of
from fedtune.recipe import Recipe
from fedtune.runs.record import ClientRecord
from fedtune.split.copies import BodyCopies
from server.copies import Copies
from server.download import Download
from server.exchange import Exchange
from server.expected import Expectation
from server.intake import Intake
from server.listener import Listener
from server.private import ClientPrivacy
from server.select import Draw, draw_by_seed
from server.tasking import Tasking


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """What a training round came to."""

    world: Global
    """What the next round starts from; what this one did where too few replied."""
    aggregated: bool
    clients: tuple[ClientRecord, ...]
    """The asked ones; none under noise at the coordinator, where who was drawn stays a secret."""
    train_loss: float | None
    product_error: float | None = None


class TrainingRound:
    """Runs training rounds of one recipe over one exchange."""

    def __init__(
        self,
        recipe: Recipe,
        exchange: Exchange,
        tasking: Tasking,
        listener: Listener,
        frame: Frame,
        download: Download,
        private: ClientPrivacy | None = None,
        bodies: BodyCopies | None = None,
    ) -> None:
        """`private`: the coordinator's mechanism of client-level privacy, the same one for all rounds of a run.

        `bodies`: the clients' copies of a split model's body, where it is trained.
        """
        self._bodies = bodies
        self._recipe = recipe
        self._private = private
        self._frame = frame
        self._exchange = exchange
        self._tasking = tasking
        self._listener = listener
        self._download = download
        self._pipeline = make_pipeline(recipe.compression)
        scheme, lossless = recipe.aggregation.scheme, self._pipeline.lossless
        self._feedback = feedback_of(recipe.compression, scheme, lossless=lossless)

    def draw(self, round_: int, names: list[str]) -> Draw:
        """Whom the round will ask among the connected clients `names`; nothing is sent yet.

        Raises PrivacyError where client-level privacy does not let the round take place.
        """
        if self._private:
            return self._private.draw(names)
        return draw_by_seed(self._recipe.federation, names, seed=self._recipe.run.seed, round_=round_)

    def run(self, round_: int, world: Global, draw: Draw) -> RoundOutcome:
        """One round from `world` with the clients of `draw`."""
        section = self._recipe.federation
        task = self._tasking.task("train", round_, world)
        aggregator = self._aggregator(draw)
        aggregator.begin(world, round_)
        expect = Expectation(self._recipe, self._frame, self._tasking, round_)
        copies = Copies(world) if self._feedback == "ef21" else None
        intake = Intake(
            task,
            expect,
            aggregator,
            self._pipeline,
            self._recipe.aggregation,
            seed=self._recipe.run.seed,
            copies=copies,
            withheld=self._recipe.privacy.unit != "none",
            bodies=self._bodies,
        )
        self._listener.asked(round_, len(draw.clients), "train")
        deadline = self._exchange.clock.now() + section.deadline_s
        records = self._ask(intake, self._tasking.payloads(task, list(draw.clients)), round_, deadline, draw.enough)
        lacking = [r.client for r in records.values() if r.outcome == "needs-factors"]
        if lacking:
            again = self._ask(intake, self._tasking.payloads(task, lacking), round_, deadline, draw.enough)
            records |= {client: _with_traffic_of(records[client], record) for client, record in again.items()}
        # With noise at the coordinator a round of nobody is released too: whether one counts would say who was in it.
        good = bool(self._private) or intake.accepted >= section.min_replies
        return RoundOutcome(
            world=self._next(world, aggregator, copies, round_) if good else world,
            aggregated=good,
            clients=() if self._private else tuple(records[client] for client in sorted(records)),
            train_loss=intake.train_loss,
            product_error=aggregator.error if good and isinstance(aggregator, Diagnosed) else None,
        )

    def _aggregator(self, draw: Draw) -> Aggregator:
        if self._private:
            return self._private.aggregator(draw)
        return make_aggregator(self._recipe.aggregation, self._frame)

    def _next(self, world: Global, aggregator: Aggregator, copies: Copies | None, round_: int) -> Global:
        """What the next round starts from, as far as clients are told of it."""
        after = self._download.settle(world, aggregator.finish(), round_)
        return copies.after(after) if copies else after

    def _ask(
        self, intake: Intake, payloads: dict[str, bytes], round_: int, deadline: float, enough: int | None
    ) -> dict[str, ClientRecord]:
        records: dict[str, ClientRecord] = {}
        replies = self._exchange.ask(
            payloads, message_type="train", round_=round_, deadline_s=max(0.0, deadline - self._exchange.clock.now())
        )
        for reply in replies:
            record = intake.take(reply, bytes_down=len(payloads[reply.client]))
            records[reply.client] = record
            self._tasking.heard(reply.client, record.outcome, record.rank)
            self._listener.replied(record, "train")
            if enough is not None and intake.accepted >= enough and len(records) < len(payloads):
                replies.close()
                return records | _left_out(payloads, records)
        return records


def _with_traffic_of(first: ClientRecord, second: ClientRecord) -> ClientRecord:
    """The second record, with the bytes of both asks."""
    return second.model_copy(
        update={
            "bytes_down": first.bytes_down + second.bytes_down,
            "bytes_up": first.bytes_up + second.bytes_up,
        }
    )


def _left_out(payloads: Mapping[str, bytes], records: Mapping[str, ClientRecord]) -> dict[str, ClientRecord]:
    """Records of the over-selected clients whose replies the round did not wait for."""
    return {
        client: ClientRecord(
            client=client,
            outcome="not-needed",
            detail="enough others had replied",
            bytes_down=len(payloads[client]),
        )
        for client in payloads
        if client not in records
    }
