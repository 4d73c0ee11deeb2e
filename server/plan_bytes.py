"""What a recipe will send, before anything runs: messages of its own model and adapter, encoded and measured."""

import math
from dataclasses import dataclass, replace

import torch

from fedtune.aggregation import SCHEMES, Frame
from fedtune.aggregation.frame import frame_of
from fedtune.aggregation.scheme import Layout
from fedtune.compression import make_pipeline
from fedtune.recipe import Recipe
from fedtune.seeds import generator
from fedtune.split.crossing import Crossing
from fedtune.split.cut import cut_of
from fedtune.split.outline import outline_of
from fedtune.state import State
from fedtune.training.resident import Resident
from fedtune.wire import Evaluation, Update, encode
from server.download import Download
from server.expected import Expectation
from server.start import first_world
from server.tasking import Tasking

BASELINE_RANK = 32
"""The rank of the FedIT that a recipe is set beside: the one that published comparisons take."""
RUN_ID, CLIENT = "0" * 32, "client-00"
"""As long as those of a run."""


@dataclass(frozen=True, slots=True)
class Ways:
    """Bytes up and down."""

    up: int
    down: int


@dataclass(frozen=True, slots=True)
class BytesPlan:
    """What one client sends and is sent, and how often."""

    round: Ways
    """Of one client in one round that it trains in, once it holds what it needs."""
    first: Ways
    """What its first round costs beside that: broadcast factors, the whole state."""
    evaluation: Ways
    """Of one client in one federated evaluation; zero where clients hold no rows out."""
    clients: int
    """Clients in a round."""
    population: int
    """Clients in all, as far as the recipe knows."""
    rounds: int
    evaluations: int
    """Federated evaluations of one run, times the clients in each."""
    fedit: Ways | None
    """One client's round of FedIT on the same targets, rank 32, numbers in fp32, the head included; None where the
    recipe adapts no whole model's layers."""
    row: Ways | None = None
    """Of one row's pass through the body of a split model, there and back, without headers: in none of the sums."""

    @property
    def run(self) -> Ways:
        """All clients over the whole run; what crosses the cuts of a split model comes on top."""
        trained = self.rounds * self.clients
        newcomers = min(self.population, trained)
        return Ways(
            up=trained * self.round.up + newcomers * self.first.up + self.evaluations * self.evaluation.up,
            down=trained * self.round.down + newcomers * self.first.down + self.evaluations * self.evaluation.down,
        )


def plan_bytes(recipe: Recipe) -> BytesPlan:
    """Load the recipe's model, make the messages of a round in mid-run, and measure them; raises FedtuneError."""
    home = Resident.build(recipe)
    frame = frame_of(home.attached, recipe.adapter)
    population = recipe.data.partition.clients if recipe.data.source else recipe.federation.min_clients
    clients = min(recipe.federation.clients_per_round or population, population)
    first, later, evaluation = _tasks(recipe, home, frame, clients)
    scored = recipe.federation.evaluate_clients or population
    every = recipe.federation.evaluate_every or recipe.federation.rounds
    evaluated = (1 + math.ceil(recipe.federation.rounds / every)) * scored if recipe.data.holdout_fraction else 0
    return BytesPlan(
        round=Ways(_update_bytes(recipe, home, frame), later),
        first=Ways(_gradient_bytes(recipe, frame), first - later),
        evaluation=Ways(len(encode(Evaluation(RUN_ID, 1, CLIENT, "0" * 64, 1, 1.0, 1.0))), evaluation),
        clients=clients,
        population=population,
        rounds=recipe.federation.rounds,
        evaluations=evaluated,
        fedit=None if recipe.split.active or not frame.modules else _fedit(frame, _head(frame)),
        row=_row(recipe) if recipe.split.active else None,
    )


def _row(recipe: Recipe) -> Ways:
    """The longest row that the recipe lets through."""
    outline = outline_of(recipe.model)
    crossing = Crossing.of(
        recipe.split, cut_of(recipe.split, outline.config), outline.family, outline.tokens(recipe.model)
    )
    bytes_ = crossing.bytes(recipe.split, outline.width)
    return Ways(int(bytes_.up), int(bytes_.down))


def _update_bytes(recipe: Recipe, home: Resident, frame: Frame) -> int:
    """The mean over an odd and an even round, for some schemes take turns."""
    tasking = Tasking(recipe, RUN_ID, home, frame, Download(recipe))
    pipeline = make_pipeline(recipe.compression)
    sizes = []
    for round_ in (1, 2):
        expected = Expectation(recipe, frame, tasking, round_)(CLIENT, 0)
        delta = _random(expected.shapes, round_)
        metrics = {"loss": 1.0, "seconds": 1.0, "steps": 1.0}
        control = _random(expected.control, round_)
        encoded = pipeline.encode(delta, seed=round_)
        update = Update(RUN_ID, round_, CLIENT, "0" * 64, pipeline.names, encoded, 100, metrics, 0, control, round_ - 1)
        sizes.append(len(encode(update)))
    return sum(sizes) // 2


def _tasks(recipe: Recipe, home: Resident, frame: Frame, clients: int) -> tuple[int, int, int]:
    """The bytes of a client's first task, of a later one, and of an evaluation."""
    download = Download(recipe)
    tasking = Tasking(recipe, RUN_ID, home, frame, download)
    before = first_world(recipe, home.initial)
    step = _random(frame.shapes, 1)
    moved = {name: tensor + step[name] for name, tensor in before.state.items()}
    after = download.settle(before, replace(before, state=moved), 1)
    first = len(tasking.payloads(tasking.task("train", 1, before), [CLIENT])[CLIENT])
    tasking.heard(CLIENT, "ok")
    later = len(tasking.payloads(tasking.task("train", 2, after), [CLIENT])[CLIENT])
    evaluation = len(tasking.payloads(tasking.task("evaluate", 2, after), [CLIENT])[CLIENT])
    return first, later + 4 * _shift_numbers(recipe, frame, clients), evaluation


def _shift_numbers(recipe: Recipe, frame: Frame, clients: int) -> int:
    """Numbers of the change of the base weights that a client is sent beside the state."""
    scheme = SCHEMES[recipe.aggregation.scheme]
    layout = Layout(
        form=frame.form,
        modules=list(frame.modules.values()),
        rank=recipe.adapter.rank,
        own_rank=frame.slots,
        ranks=[frame.slots] * clients,
        head=_head(frame),
        heads=recipe.adapter.heads,
        residual=recipe.aggregation.residual,
        residual_rank=recipe.aggregation.residual_rank,
        state_numbers=sum(math.prod(shape) for shape in frame.shapes.values()) - _head(frame),
    )
    stays = scheme.keeps(tuple(frame.shapes))
    sent = sum(math.prod(shape) for name, shape in frame.shapes.items() if name not in stays)
    return max(0, scheme.traffic(layout).down - sent)


def _gradient_bytes(recipe: Recipe, frame: Frame) -> int:
    """What a start from the clients' own gradients has each of them send, once."""
    return 4 * sum(out * in_ for out, in_ in frame.modules.values()) if recipe.adapter.init == "private-gradient" else 0


def _fedit(frame: Frame, head: int) -> Ways:
    numbers = sum(BASELINE_RANK * (out + in_) for out, in_ in frame.modules.values()) + head
    return Ways(4 * numbers, 4 * numbers)


def _head(frame: Frame) -> int:
    return sum(math.prod(shape) for name, shape in frame.shapes.items() if name.startswith("head."))


def _random(shapes: dict[str, tuple[int, ...]], seed: int) -> State:
    """Normal numbers of about an update's size: what is entropy-coded depends on how many are kept, not on which."""
    draw = generator(seed, "bytes")
    return {name: 1e-3 * torch.randn(shape, generator=draw) for name, shape in sorted(shapes.items())}
