"""Canary clients in a run: enrolled by secret coins, each with an update in a direction of its own."""

import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from client.bench import Bench
from fedtune.audit.canaries import canary_names, direction, toss
from fedtune.audit.canaries.directions import norm
from fedtune.audit.canaries.evidence import along_direction, cosine
from fedtune.audit.checks import Finding, Release, check_mechanism
from fedtune.audit.checks.recording import KEPT
from fedtune.audit.estimators import cosine_bound, cosine_estimate
from fedtune.audit.result import Attack
from fedtune.compression import make_pipeline
from fedtune.data.base import ClientData
from fedtune.privacy.plan import Plan
from fedtune.recipe import Recipe
from fedtune.seeds import derive_seed
from fedtune.state import State, parameter_count, subtract
from fedtune.training.resident import Resident
from fedtune.wire import Refusal, Task, Update, decode, encode
from simulations.audit.setting import Released, Side, Told
from simulations.audit.watched import Watched, sent_shapes
from simulations.groups import Answers
from simulations.population import Population

Reply = Callable[[str, Task], Update | Refusal | None]


class ClientCanaries:
    """Clients that send `clip` times a random direction whenever they are asked, and are enrolled or not by a coin.

    The black-box attack sees the first and the last state: the cosine of what training moved with the direction
    (arXiv 2302.03098). The white-box attack sees every state: a log likelihood ratio over the rounds.
    """

    def __init__(self, recipe: Recipe, plan: Plan, population: Population, home: Resident, count: int) -> None:
        self._recipe, self._plan, self._population = recipe, plan, population
        self.coins = toss(canary_names(count))
        self._seed = secrets.randbits(62)
        self.names = [*population.names, *(name for name, is_in in self.coins.items() if is_in)]
        self._asked: dict[int, set[str]] = defaultdict(set)
        self._sums: dict[int, np.ndarray[tuple[int], np.dtype[np.float64]]] = {}
        self._shapes = home.shapes()
        self._divisor = recipe.federation.clients_per_round or plan.sampling_rate * recipe.privacy.population
        self.work = count

    def data_of(self, client: str, _: Bench) -> ClientData:
        """A real client's rows, as they are."""
        return self._population.data(client)

    def watch(self, answers: Answers) -> Answers:
        """The clients' answers and the canaries', with who was asked and the sum of clipped updates noted."""
        return Watched(_WithCanaries(answers, self._canary), self._recipe, self._shapes, self._note)

    def scores(self, released: Released, told: Told) -> dict[Attack, dict[str, float]]:
        """The cosine with what training moved, and the evidence of all rounds."""
        moved, black, white = subtract(released.last, released.first), dict[str, float](), dict[str, float]()
        unit = self._plan.clip / self._divisor
        noise = self._plan.noise_multiplier
        for done, name in enumerate(self.coins):
            way = self._direction(name)
            black[name] = cosine(moved, way)
            states = sorted(released.states.items())
            white[name] = along_direction(states, way, unit=unit, noise_multiplier=noise, rate=self._plan.sampling_rate)
            told(done + 1, self.work)
        return {"black-box": black, "white-box": white}

    def side(self, released: Released, delta: float, confidence: float) -> Side:
        """The published one-shot estimate from the canaries that are in, and a bound from the same cosines."""
        moved = subtract(released.last, released.first)
        cosines = {name: cosine(moved, self._direction(name)) for name, is_in in self.coins.items() if is_in}
        if len(cosines) < 2 or not norm(moved):
            return Side()
        size = parameter_count(moved.values())
        return Side(
            bounds=(("black-box", cosine_bound(cosines, dimension=size, delta=delta, confidence=confidence)),),
            estimates=(("black-box", cosine_estimate(cosines, dimension=size, delta=delta)),),
        )

    def check(self, released: Released) -> tuple[Finding, ...]:
        """What each round added beyond the sum of the clipped updates, and who was drawn, against the plan.

        Nothing where the release is not the sum itself: correlated noise, an adaptive clip, a server optimiser.
        """
        recipe = self._recipe
        plain = recipe.privacy.clip_quantile is None and recipe.aggregation.server_optimizer == "none"
        if self._plan.sampler != "poisson-clients" or not plain:
            return ()
        releases = [self._release(released, round_) for round_ in sorted(released.states) if round_]
        return check_mechanism(releases, self._plan)

    def _release(self, released: Released, round_: int) -> Release:
        step = subtract(released.states[round_], released.states[round_ - 1])
        numbers = {name: position for position, name in enumerate(self.names)}
        return Release.of(
            "coordinator",
            _flat(step) * self._divisor,
            self._sums.get(round_, np.zeros(min(KEPT, parameter_count(step.values())))),
            drawn=frozenset(numbers[name] for name in self._asked[round_]),
            available=len(self.names),
        )

    def _note(self, task: Task, client: str, update: State | None) -> None:
        self._asked[task.round].add(client)
        if update is not None:
            whole = {name: update.get(name, torch.zeros(shape)) for name, shape in self._shapes.items()}
            clipped = _flat(whole) * min(1.0, self._plan.clip / max(norm(whole), 1e-30))
            self._sums[task.round] = self._sums.get(task.round, np.zeros_like(clipped)) + clipped

    def _direction(self, name: str) -> State:
        return direction(name, self._shapes, seed=self._seed)

    def _canary(self, client: str, task: Task) -> Update | Refusal | None:
        """A canary's reply; None for a client that is none."""
        if client not in self.coins:
            return None
        if task.kind != "train":
            return Refusal(task.run, task.round, client, "no-data", "a canary trains and does nothing else")
        shapes, pipeline = sent_shapes(self._recipe, self._shapes, task.round), make_pipeline(self._recipe.compression)
        delta = {name: part * self._plan.clip for name, part in self._direction(client).items() if name in shapes}
        seed = derive_seed(self._recipe.run.seed, "upload", round_=task.round, client=client)
        tensors = pipeline.encode(delta, seed=seed)
        return Update(task.run, task.round, client, task.base, pipeline.names, tensors, examples=1)


class _WithCanaries:
    """Answers for canaries, and passes the others on."""

    def __init__(self, answers: Answers, canary: Reply) -> None:
        self._answers = answers
        self._canary = canary

    def answer_all(self, jobs: Sequence[tuple[str, bytes]]) -> Iterator[bytes]:
        """The replies, in order."""
        made = [self._reply(client, raw) for client, raw in jobs]
        others = [job for job, reply in zip(jobs, made, strict=True) if reply is None]
        answered = self._answers.answer_all(others)
        for reply in made:
            yield next(answered) if reply is None else reply

    def _reply(self, client: str, raw: bytes) -> bytes | None:
        if not client.startswith("canary-"):
            return None
        task = decode(raw)
        reply = self._canary(client, task) if isinstance(task, Task) else None
        return None if reply is None else encode(reply)


def _flat(state: State) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The first numbers of a state, by sorted name."""
    parts, left = [], KEPT
    for name in sorted(state):
        part = state[name].double().reshape(-1)[:left].numpy()
        parts.append(part)
        left -= len(part)
    return np.concatenate(parts)
