"""One whole run on the coordinator's side: folder, model, test rows, rounds, and the adapter at the end."""

from contextlib import suppress
from pathlib import Path

from flwr.serverapp import Grid

from fedtune.data.table import central_rows, with_labels
from fedtune.errors import FedtuneError, RunError
from fedtune.recipe import Recipe
from fedtune.runs.folder import RunFolder
from fedtune.runs.plots import draw_plots
from fedtune.state import parameter_count
from fedtune.training.resident import Resident, resident
from fedtune.training.sequential import SequentialStep
from server.engine import Engine, Setting
from server.listener import Listener


def run(grid: Grid, recipe: Recipe, *, resume: bool, listener: Listener) -> Path:
    """Run `recipe` over `grid` and return its run folder; raises FedtuneError, and the folder says why it ended."""
    recipe = with_labels(recipe)
    with RunFolder.create(recipe, resume=resume) as folder:
        try:
            _run(grid, folder, listener)
        except KeyboardInterrupt:
            folder.end("stopped", "stopped from outside; go on with --resume")
            raise
        except FedtuneError as error:
            with suppress(FedtuneError):  # a disk that is full cannot be written on; the first error is the one to tell
                folder.end("failed", str(error))
            raise
        folder.end("finished")
        return folder.path


def _run(grid: Grid, folder: RunFolder, listener: Listener) -> None:
    recipe = folder.recipe
    home = resident(recipe)
    folder.describe(
        model_fingerprint=home.loaded.fingerprint,
        trainable_parameters=parameter_count(home.initial.values()),
        adapted_modules=len(home.attached.targets()),
    )
    setting = Setting(recipe, folder, home, SequentialStep(home), central_rows(recipe, home.loaded))
    Engine(grid, setting, listener).run()
    write_adapter(folder, home)
    draw_plots(folder)


def write_adapter(folder: RunFolder, home: Resident) -> None:
    """Write the best evaluated state, or the last one, as a PEFT adapter into the run folder."""
    checkpoint = folder.checkpoints.best() or folder.checkpoints.latest()
    if checkpoint is None:
        raise RunError(f"{folder.path} has no checkpoint to make an adapter from; run it again")
    if checkpoint.shared:
        home.attached.load_shared(checkpoint.shared)
    home.attached.load(checkpoint.state)
    home.attached.save(folder.adapter_path, base=home.loaded.source)
