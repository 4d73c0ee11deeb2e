"""What a recipe will send, before anything runs: messages of its own model and adapter, encoded and measured."""

import math
from dataclasses import dataclass, replace

import torch

from fedtune.aggregation import SCHEMES, Frame
from fedtune.aggregation.frame import frame_of
from fedtune.aggregation.scheme import Layout
from fedtune.compression import make_pipeline
from fedtune.privacy.plan import plan_of
from fedtune.recipe import Recipe
from fedtune.seeds import generator
from fedtune.split.crossing import Crossing
from fedtune.split.cut import cut_of
from fedtune.split.outline import outline_of
from fedtune.state import State
from fedtune.training.resident import Resident
from fedtune.wire import Evaluation, Update, encode
from server.books import Books
from server.download import Download
from server.expected import Expectation
from server.plan_ledger import ShownBooks, Tasks, links_of
from server.plan_schedule import schedule_of
from server.start import first_world
from server.tasking import Tasking

BASELINE_RANK = 32
"""The rank of the FedIT that a recipe is set beside: the one that published comparisons take."""
GRADIENTS = ("private-gradient", "dp-gradient")
"""Starts that clients send gradients for."""
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
    """Of one client in one round that it trains in, once it holds what it needs; in the mean over the run."""
    first: Ways
    """What its first round costs beside that: broadcast factors, the whole state, the ledger from its beginning; and
    what a start from its gradients does."""
    evaluation: Ways
    """Of one client in one federated evaluation; zero where clients hold no rows out."""
    clients: float
    """Clients in a round; expected ones where privacy draws them."""
    newcomers: float
    """Clients that are asked at least once, as far as the recipe knows; expected ones where they are drawn."""
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
        trained, scored = self.rounds * self.clients, self.evaluations
        up = trained * self.round.up + self.newcomers * self.first.up + scored * self.evaluation.up
        down = trained * self.round.down + self.newcomers * self.first.down + scored * self.evaluation.down
        return Ways(round(up), round(down))


def plan_bytes(recipe: Recipe) -> BytesPlan:
    """Load the recipe's model, make the messages of a round in mid-run, and measure them; raises FedtuneError."""
    recipe = _with_noise(recipe)
    plan = plan_of(recipe)
    home = Resident.build(recipe)
    frame = frame_of(home.attached, recipe.adapter)
    schedule = schedule_of(recipe, plan)
    tasks = _tasks(recipe, home, frame, round(schedule.clients) or 1)
    newcomers = min(float(schedule.population), schedule.rounds * schedule.clients)
    if plan is not None:
        links = links_of(plan, schedule)
        tasks, newcomers = tasks.with_links(links), links.newcomers
    return BytesPlan(
        round=Ways(_update_bytes(recipe, home, frame), tasks.later),
        first=Ways(_gradient_bytes(recipe, frame), tasks.first - tasks.later),
        evaluation=Ways(len(encode(Evaluation(RUN_ID, 1, CLIENT, "0" * 64, 1, 1.0, 1.0))), tasks.evaluation),
        clients=schedule.clients,
        newcomers=newcomers,
        rounds=schedule.rounds,
        evaluations=len(schedule.evaluated) * schedule.scored,
        fedit=None if recipe.split.active or not frame.modules else _fedit(frame, _head(frame)),
        row=_row(recipe) if recipe.split.active else None,
    )


def _with_noise(recipe: Recipe) -> Recipe:
    """The recipe as it is sent, with as many digits of noise as calibration settles on: which ones weigh nothing."""
    section = recipe.privacy
    if section.unit == "none" or section.noise_multiplier is not None:
        return recipe
    return recipe.model_copy(update={"privacy": section.model_copy(update={"noise_multiplier": 1.2345678901234567})})


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
        metrics = {"loss": 1.0, "seconds": 1.0, "steps": 1.0} if recipe.privacy.unit == "none" else {}
        control = _random(expected.control, round_)
        encoded = pipeline.encode(delta, seed=round_)
        update = Update(RUN_ID, round_, CLIENT, "0" * 64, pipeline.names, encoded, 100, metrics, 0, control, round_ - 1)
        sizes.append(len(encode(update)))
    return sum(sizes) // 2


def _tasks(recipe: Recipe, home: Resident, frame: Frame, clients: int) -> Tasks:
    """With one link to the privacy ledger's head, where there is one."""
    download = Download(recipe)
    books = ShownBooks() if recipe.privacy.unit != "none" else Books()
    tasking = Tasking(recipe, RUN_ID, home, frame, download, books)
    before = first_world(recipe, home.initial)
    step = _random(frame.shapes, 1)
    moved = {name: tensor + step[name] for name, tensor in before.state.items()}
    after = download.settle(before, replace(before, state=moved), 1)
    start = len(tasking.payloads(tasking.task("gradient", 0, before), [CLIENT])[CLIENT])
    first = len(tasking.payloads(tasking.task("train", 1, before), [CLIENT])[CLIENT])
    tasking.heard(CLIENT, "ok")
    later = len(tasking.payloads(tasking.task("train", 2, after), [CLIENT])[CLIENT])
    evaluation = len(tasking.payloads(tasking.task("evaluate", 2, after), [CLIENT])[CLIENT])
    asked = start if recipe.adapter.init in GRADIENTS else 0
    return Tasks(first + asked, later + 4 * _shift_numbers(recipe, frame, clients), evaluation)


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
    return 4 * sum(out * in_ for out, in_ in frame.modules.values()) if recipe.adapter.init in GRADIENTS else 0


def _fedit(frame: Frame, head: int) -> Ways:
    numbers = sum(BASELINE_RANK * (out + in_) for out, in_ in frame.modules.values()) + head
    return Ways(4 * numbers, 4 * numbers)


def _head(frame: Frame) -> int:
    return sum(math.prod(shape) for name, shape in frame.shapes.items() if name.startswith("head."))


def _random(shapes: dict[str, tuple[int, ...]], seed: int) -> State:
    """Normal numbers of about an update's size: what is entropy-coded depends on how many are kept, not on which."""
    draw = generator(seed, "bytes")
    return {name: 1e-3 * torch.randn(shape, generator=draw) for name, shape in sorted(shapes.items())}
