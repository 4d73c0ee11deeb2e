"""Canary examples in a run: rows of the clients, in by secret coins, and what gives them away."""

import secrets
from collections import defaultdict
from collections.abc import Mapping

from client.bench import Bench
from fedtune.audit.canaries import CanaryRows, canary_names, choose_rows, toss
from fedtune.audit.canaries.evidence import along_gradient, canary_losses, gradient_of
from fedtune.audit.checks import Finding
from fedtune.audit.result import Attack
from fedtune.data.base import Batch, ClientData
from fedtune.errors import PrivacyError
from fedtune.privacy.plan import Plan
from fedtune.recipe import Recipe
from fedtune.state import State
from fedtune.training.resident import Resident
from fedtune.wire import Task
from simulations.audit.probe import Lot, probe
from simulations.audit.setting import Released, Side, Told
from simulations.audit.watched import Watched
from simulations.groups import Answers, in_a_group
from simulations.population import Population


class ExampleCanaries:
    """Mislabelled rows among the clients' own; each client's rows are as if those that are out had never been.

    The black-box attack sees the first and the last state: how much the loss on the canary fell. The white-box attack
    sees every update that the coordinator sees: how far each goes against the canary's gradient.
    """

    def __init__(self, recipe: Recipe, plan: Plan, population: Population, home: Resident, count: int) -> None:
        if recipe.federation.ranks:
            raise PrivacyError("federation.ranks is not audited yet: take it out, and audit the same rank everywhere")
        self._recipe, self._plan, self._home = recipe, plan, home
        self.names = population.names
        self.coins = toss(canary_names(count))
        seed = secrets.randbits(32)
        data = {client: population.data(client) for client in self.names}
        self._places = choose_rows({client: len(d.train) for client, d in data.items()}, tuple(self.coins), seed=seed)
        self._rows = {c: self._mixed(d, c, seed) for c, d in data.items()}
        self._data = data
        self._updates: dict[int, dict[str, State]] = defaultdict(dict)
        self._hosts = {client for client, _ in self._places.values()}
        self.work = count * recipe.federation.rounds

    def data_of(self, client: str, _: Bench) -> ClientData:
        """A client's rows, with the canaries that are in."""
        return ClientData(self._rows[client], self._data[client].holdout)

    def watch(self, answers: Answers) -> Answers:
        """The answers, with the updates of clients that hold canaries kept."""
        return Watched(answers, self._recipe, self._home.shapes(), self._note)

    def scores(self, released: Released, told: Told) -> dict[Attack, dict[str, float]]:
        """How much the loss fell, and how far updates went along the gradient."""
        batches = {name: self._rows[client].canary(position) for name, (client, position) in self._places.items()}
        before = canary_losses(self._home, released.first, batches)
        after = canary_losses(self._home, released.last, batches)
        black = {name: before[name] - after[name] for name in batches}
        return {"black-box": black, "white-box": self._white_box(released, batches, told)}

    def side(self, released: Released, delta: float, confidence: float) -> Side:
        """Nothing beyond the scores."""
        return Side()

    def check(self, released: Released) -> tuple[Finding, ...]:
        """The clients' own private step against the plan, beside neighbours where the run has clients share passes."""
        return probe(self._home, self._plan, self.lot(), released.first)

    def lot(self) -> Lot:
        """The client with most rows, canaries among them, amid as many neighbours as a simulation hands out with it.

        The neighbours hold their rows as a simulation gives them.
        """
        host = max(self._rows, key=lambda name: len(self._rows[name]))
        size = in_a_group(self._recipe, len(self.names))
        start = max(0, min(self.names.index(host) - size // 2, len(self.names) - size))
        rows = {name: self._data[name].train for name in self.names[start : start + size]}
        return Lot({**rows, host: self._rows[host]}, host)

    def _mixed(self, data: ClientData, client: str, seed: int) -> CanaryRows:
        mine = {row: self.coins[name] for name, (host, row) in self._places.items() if host == client}
        return CanaryRows(data.train, mine, choices=_choices(self._recipe, self._home), seed=seed)

    def _note(self, task: Task, client: str, update: State | None) -> None:
        if update is not None and client in self._hosts:
            self._updates[task.round][client] = update

    def _white_box(self, released: Released, batches: Mapping[str, Batch], told: Told) -> dict[str, float]:
        scores, done = dict.fromkeys(batches, 0.0), 0
        for round_, updates in sorted(self._updates.items()):
            state = released.states[round_ - 1]
            for name, (client, _) in self._places.items():
                if client in updates:
                    gradient = gradient_of(self._home, state, batches[name])
                    scores[name] += along_gradient(updates[client], gradient)
                done += 1
                told(done, self.work)
        return scores


def _choices(recipe: Recipe, home: Resident) -> int:
    """What a wrong label is chosen from: the classes, or the vocabulary."""
    if recipe.model.task == "causal-lm":
        return len(home.loaded.processor)
    return len(recipe.model.labels)
