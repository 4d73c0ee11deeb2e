"""The bytes that a round sends: encoded once for all clients that get the same, with what each is known to hold."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from fedtune.adapters.shift import NO_SHIFT
from fedtune.adapters.slots import choose_slots, narrow
from fedtune.aggregation import SCHEMES, Frame, Global
from fedtune.audit.ledger import Offer
from fedtune.recipe import Recipe
from fedtune.recipe.ranks import rank_of
from fedtune.split.sides import client_side
from fedtune.state import State, digest, parameter_count
from fedtune.training.resident import Resident
from fedtune.wire import Task, TaskKind, encode
from server.books import Books
from server.copies import rounds_of
from server.download import Download


@dataclass(slots=True)
class _Client:
    """What the coordinator knows of one client."""

    has_factors: bool = False
    shift_key: str = ""
    state: str = ""
    """The digest of the global state that it was sent last."""
    rank: int = 0
    """The smaller rank that it went down to by itself; 0 where it did not."""
    entry: int = -1
    """The entry of the ledger that it is known to have followed to."""
    offered: int = -1
    """The entry that it was sent last."""


class Tasking:
    """Makes the tasks of one run.

    Who answered a task that built on the factors holds them, and the change of the base weights too; who says
    `needs-factors` has lost both.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: str,
        home: Resident,
        frame: Frame,
        download: Download,
        books: Books | None = None,
    ) -> None:
        self._whole = recipe
        self._recipe = recipe.for_clients()
        self._fingerprint = recipe.fingerprint()
        self._run = run
        self._frame = frame
        self._keeps = frozenset(SCHEMES[recipe.aggregation.scheme].keeps(tuple(frame.shapes)))
        self._model_fingerprint = home.loaded.fingerprint
        attached = home.attached
        broadcast = attached.shared_origin == "broadcast"
        self._shared: State = attached.shared() if broadcast else {}
        self._shared_digest = digest(self._shared) if broadcast else ""
        self._sketch = {} if broadcast else attached.sketch()
        self._shift = NO_SHIFT
        self._state = ""
        self._copies: dict[str, int] = {}
        self._download = download
        self._books = books or Books()
        self._clients: dict[str, _Client] = {}

    def task(self, kind: TaskKind, round_: int, world: Global) -> Task:
        """The task of a round, whole, without factors and shift."""
        self._shift = world.shift
        state = client_side(world.state)
        self._state = digest(state)
        self._copies = rounds_of(world)
        return Task(
            kind=kind,
            run=self._run,
            round=round_,
            recipe=self._recipe,
            recipe_fingerprint=self._fingerprint,
            model_fingerprint=self._model_fingerprint,
            base=world.digest(),
            state={name: tensor for name, tensor in state.items() if name not in self._keeps},
            sketch=self._sketch,
            shared_digest=self._shared_digest,
            shift_key=world.shift.key,
            control=world.control if kind == "train" else {},
        )

    def payloads(self, task: Task, clients: list[str]) -> dict[str, bytes]:
        """The bytes for each client; clients that get the same bytes share one object."""
        encoded: dict[tuple[object, ...], bytes] = {}
        entries = [self._client(client).entry for client in clients]
        # One offer for all whose entry is known, from the oldest: who is further skips links of 32 bytes.
        since = min((entry for entry in entries if entry >= 0), default=-1)
        offers = {known: self._books.offer(since if known else -1) for known in {entry >= 0 for entry in entries}}
        return {
            client: self._payload(task, client, offers[entry >= 0], encoded)
            for client, entry in zip(clients, entries, strict=True)
        }

    def rank(self, client: str) -> int:
        """The rank that a client is given: the recipe's for its name, or a smaller one that it went down to."""
        total = self._frame.slots
        rank = min(rank_of(client, self._whole.federation.ranks, total), total)
        return min(rank, self._client(client).rank or total)

    def heard(self, client: str, outcome: str, rank: int = 0) -> None:
        """Learn from a client's outcome what it holds, and at which rank it works."""
        known = self._client(client)
        if outcome == "needs-factors":
            known.has_factors, known.shift_key, known.state = False, "", ""
        elif outcome == "ok":
            known.has_factors, known.shift_key, known.state = True, self._shift.key, self._state
            known.rank = rank or known.rank
            known.entry = known.offered

    def holders(self) -> tuple[str, ...]:
        """The clients that are known to hold the broadcast factors, sorted; none where none are broadcast."""
        return tuple(sorted(name for name, known in self._clients.items() if known.has_factors and self._shared))

    def recall(self, holders: Iterable[str]) -> None:
        """Know again who holds the broadcast factors."""
        for client in holders:
            self._client(client).has_factors = True

    def _client(self, client: str) -> _Client:
        return self._clients.setdefault(client, _Client())

    def _payload(self, task: Task, client: str, offer: Offer | None, encoded: dict[tuple[object, ...], bytes]) -> bytes:
        known, frame = self._client(client), self._frame
        rank = self.rank(client)
        seed = self._whole.run.seed
        slots = choose_slots(frame.form, frame.slots, rank, seed=seed, round_=task.round, client=client)
        copy = self._copies.get(client, 0)
        key = (slots, known.has_factors, known.shift_key, known.state, copy, offer.since if offer else -1)
        known.offered = offer.head.seq if offer else -1
        if key not in encoded:
            made = replace(
                task,
                state=narrow(task.state, frame.axes, slots),
                rank=len(slots) if slots is not None else 0,
                shared={} if known.has_factors else self._shared,
                feedback_round=copy,
                ledger=offer,
            )
            encoded[key] = encode(self._with_steps(self._with_shift(made, known.shift_key), task.state, known.state))
        return encoded[key]

    def _with_steps(self, task: Task, state: State, held: str) -> Task:
        """The encoded steps from the state that the client holds, where they are known and smaller than the state."""
        steps = self._download.steps_from(held, state, sum(tensor.nbytes for tensor in state.values())) if held else ()
        if not steps:
            return task
        return replace(
            task,
            state={},
            chain=(steps[0].start, *(step.end for step in steps)),
            chain_rounds=tuple(step.round for step in steps),
            steps=tuple(step.tensors for step in steps),
        )

    def _with_shift(self, task: Task, held: str) -> Task:
        """The whole shift, or the last increment for who holds the one before and where that is less."""
        shift = self._shift
        if held == shift.key:
            return task
        smaller = parameter_count(shift.last.values()) <= parameter_count(shift.tensors.values())
        if held and shift.last and held == shift.last_from and smaller:
            return replace(task, shift=shift.last, shift_from=held)
        return replace(task, shift=shift.tensors)
