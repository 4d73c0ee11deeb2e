"""The bytes that a round sends: encoded once, with the broadcast factors only for clients not known to hold them."""

from dataclasses import replace

from fedtune.recipe import Recipe
from fedtune.state import State, digest
from fedtune.training.resident import Resident
from fedtune.wire import Task, TaskKind, encode


class Tasking:
    """Makes the tasks of one run.

    Who answered a task that built on the factors holds them; who says `needs-factors` has lost them.
    """

    def __init__(self, recipe: Recipe, run: str, home: Resident) -> None:
        self._recipe = recipe.for_clients()
        self._fingerprint = recipe.fingerprint()
        self._run = run
        self._model_fingerprint = home.loaded.fingerprint
        attached = home.attached
        broadcast = attached.shared_origin == "broadcast"
        self._shared: State = attached.shared() if broadcast else {}
        self._shared_digest = digest(self._shared) if broadcast else ""
        self._sketch = {} if broadcast else attached.sketch()
        self._holders: set[str] = set()

    def task(self, kind: TaskKind, round_: int, state: State) -> Task:
        """The task of a round, without factors."""
        return Task(
            kind=kind,
            run=self._run,
            round=round_,
            recipe=self._recipe,
            recipe_fingerprint=self._fingerprint,
            model_fingerprint=self._model_fingerprint,
            base=digest(state),
            state=state,
            sketch=self._sketch,
            shared_digest=self._shared_digest,
        )

    def payloads(self, task: Task, clients: list[str]) -> dict[str, bytes]:
        """The bytes for each client; clients that get the same bytes share one object."""
        plain = encode(task)
        full = encode(replace(task, shared=self._shared)) if self._shared and set(clients) - self._holders else plain
        return {client: plain if client in self._holders else full for client in clients}

    def heard(self, client: str, outcome: str) -> None:
        """Learn from a client's outcome whether it holds the factors."""
        if outcome == "needs-factors":
            self._holders.discard(client)
        elif outcome == "ok":
            self._holders.add(client)
