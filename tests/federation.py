"""A federation in this process that writes down what it sends: for tests of what each method costs and gives."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from flwr.app import Context, RecordDict

from client.work import Workplace
from fedtune.recipe import Recipe
from fedtune.recipe.load import parse_recipe
from fedtune.runs.kept import Keep
from fedtune.wire import Task, Update, decode
from server.app import make_app, run_config
from server.listener import Listener
from simulations.cohort import CohortGrid, work_with
from simulations.population import Population


class Recording(Workplace):
    """A workplace that counts the numbers (tensor elements) of every training task and update."""

    def __init__(self, population: Population, keep: Path, *, max_rank: int | None = None) -> None:
        super().__init__(population, keep=Keep(keep), max_rank=max_rank)
        self.up: dict[int, dict[str, int]] = defaultdict(dict)
        self.down: dict[int, dict[str, int]] = defaultdict(dict)

    def answer_all(self, jobs: Sequence[tuple[str, bytes]]) -> Iterator[bytes]:
        for (client, raw), reply in zip(jobs, super().answer_all(jobs), strict=True):
            task, update = decode(raw), decode(reply)
            if isinstance(task, Task) and task.kind == "train":
                parts = (task.state, task.shared, task.shift, task.control)
                self.down[task.round][client] = sum(_numbers(part) for part in parts)
                if isinstance(update, Update):
                    self.up[task.round][client] = _numbers(update.tensors) + _numbers(update.control)
            yield reply


def _numbers(tensors) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def recipe_for(model: Path, rows: Path, folder: Path, *lines: str) -> Recipe:
    """Four clients, three rounds, an adapter of rank 4 on the attention of a tiny model; `lines` are TOML."""
    keys = {
        "model.name": f'"{model}"',
        "model.labels": '["negative", "positive"]',
        "model.max_length": "16",
        "data.source": f'"{rows}"',
        "data.test_fraction": "0.25",
        "data.partition.clients": "4",
        "adapter.rank": "4",
        "adapter.targets": '"attention"',
        "training.batch_size": "4",
        "training.lr": "0.01",
        "training.device": '"cpu"',
        "federation.rounds": "3",
        "run.folder": f'"{folder}"',
        "run.tensorboard": "false",
    }
    for line in lines:
        key, _, value = line.partition("=")
        keys[key.strip()] = value.strip()
    return parse_recipe("\n".join(f"{key} = {value}" for key, value in keys.items())).recipe


def federate(
    recipe: Recipe, *, resume: bool = False, max_rank: int | None = None, listener: Listener | None = None
) -> Recording:
    """Run `recipe` with every client in this process; the run folder is where the recipe says."""
    population = Population.of(recipe)
    place = Recording(population, folder_of(recipe) / "clients", max_rank=max_rank)
    grid = CohortGrid(population.names, work_with(place))
    make_app(listener or Listener())(grid, Context(1, 1, {}, RecordDict(), dict(run_config(recipe, resume=resume))))
    return place


def folder_of(recipe: Recipe) -> Path:
    """Where a recipe's run is."""
    return Path(recipe.run.folder) / recipe.run.name
