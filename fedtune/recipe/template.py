"""The recipe that `fedtune init` writes: what people change stands there, everything else as a comment."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from fedtune.recipe.allowed import as_toml
from fedtune.recipe.dump import write
from fedtune.recipe.load import parse_recipe
from fedtune.recipe.model import Task

TASKS: tuple[Task, ...] = get_args(Task)
"""Every task, the usual one first."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a task starts with where nothing else is asked for."""

    model: str
    data: str
    columns: tuple[str, ...]
    """The keys of `[data]` that name the columns of this task."""
    partition: str
    """How a simulation deals the rows."""
    keys: Mapping[str, str]
    """Other keys as TOML."""


STARTS: Mapping[Task, Start] = {
    "sequence-classification": Start(
        "minilm", "movie-reviews", ("text", "label"), "dirichlet", {"training.lr": "4e-3", "adapter.rank": "32"}
    ),
    "causal-lm": Start("smollm2-135m", "trivia", ("prompt", "answer"), "iid", {"training.lr": "2e-3"}),
    "image-classification": Start("dinov2-small", "mnist-5k", ("image", "label"), "dirichlet", {"training.lr": "2e-3"}),
}

SHOWN = (
    "method",
    "model.name",
    "model.task",
    "data.source",
    "data.test_fraction",
    "data.partition.scheme",
    "data.partition.clients",
    "adapter.rank",
    "adapter.targets",
    "federation.rounds",
    "federation.clients_per_round",
    "training.epochs",
    "training.batch_size",
    "training.lr",
    "training.device",
    "run.name",
    "run.seed",
)
"""Keys that people change, written whatever their value."""

HEADER = """\
A recipe of fedtune: one run, whether simulated or with real clients.

Keys behind a # have the value that stands there; take the # away to change them. The command
`fedtune recipe check FILE` says what is wrong, and which values a run would have.
"""


def template(task: Task | None = None, model: str = "", data: str = "", *, name: str = "run") -> str:
    """A commented recipe that loads; what is left open is the usual choice of the task, and the task the model's.

    Raises RecipeError where a value cannot be one, such as a `name` with a slash.
    """
    chosen = task or _task_of(model)
    start = STARTS[chosen]
    keys = {
        "method": as_toml("fed-sb"),
        "model.name": as_toml(model or start.model),
        "model.task": as_toml(chosen),
        "data.source": as_toml(data or start.data),
        "data.partition.scheme": as_toml(start.partition),
        "federation.clients_per_round": "5",
        "run.name": as_toml(name),
        **start.keys,
    }
    recipe = parse_recipe("\n".join(f"{key} = {value}" for key, value in keys.items())).recipe
    shown = {*SHOWN, *(f"data.{column}" for column in start.columns)}
    return write(recipe, live=lambda path: ".".join(map(str, path)) in shown, header=HEADER)


def _task_of(model: str) -> Task:
    """The task for which a model of the catalogue is the usual choice."""
    return next((task for task, start in STARTS.items() if start.model == model), TASKS[0])
