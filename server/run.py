"""One whole run on the coordinator's side: folder, model, test rows, rounds, and the adapter at the end."""

from contextlib import suppress
from pathlib import Path

from flwr.serverapp import Grid

from fedtune.aggregation import SCHEMES
from fedtune.aggregation.frame import frame_of
from fedtune.audit.ledger import folder_digest
from fedtune.data.table import central_rows, with_labels
from fedtune.errors import FedtuneError, RunError
from fedtune.privacy.plan import calibrated
from fedtune.recipe import Recipe
from fedtune.runs.folder import RunFolder
from fedtune.runs.plots import draw_plots
from fedtune.runs.world import world_of
from fedtune.split.copies import BodyCopies
from fedtune.split.joined import joined
from fedtune.state import parameter_count
from fedtune.training.make import scoring_step
from fedtune.training.resident import resident
from server.engine import Engine, Setting
from server.evaluate import score_centrally
from server.listener import Listener
from server.promise import promise
from server.soup import final_checkpoint, soup


def run(grid: Grid, recipe: Recipe, *, resume: bool, listener: Listener, copies: BodyCopies | None = None) -> Path:
    """Run `recipe` over `grid` and return its run folder; raises FedtuneError, and the folder says why it ended.

    `copies` are those that the body's clients train, where the recipe trains it.
    """
    recipe = calibrated(with_labels(recipe))
    with RunFolder.create(recipe, resume=resume) as folder:
        try:
            _run(grid, folder, listener, copies)
        except KeyboardInterrupt:
            folder.end("stopped", "stopped from outside; go on with --resume")
            raise
        except FedtuneError as error:
            with suppress(FedtuneError):  # a disk that is full cannot be written on; the first error is the one to tell
                folder.end("failed", str(error))
            raise
        folder.end("finished")
        return folder.path


def _run(grid: Grid, folder: RunFolder, listener: Listener, copies: BodyCopies | None) -> None:
    recipe = folder.recipe
    if recipe.split.trains_body and copies is None:
        raise RunError('nothing here serves the body that this recipe trains; set split.body = "frozen"')
    home = joined(resident(recipe))
    folder.describe(
        model_fingerprint=home.loaded.fingerprint,
        trainable_parameters=parameter_count(home.initial.values()),
        adapted_modules=len(home.attached.targets()),
    )
    setting = Setting(recipe, folder, home, scoring_step(home), central_rows(recipe, home.loaded), copies)
    if sentence := promise(recipe):
        listener.noted(sentence)
        folder.describe(promise=sentence)
    engine = Engine(grid, setting, listener)
    position = engine.run()
    write_adapter(setting, listener)
    engine.close(position, folder_digest(folder.adapter_path) if folder.adapter_path.is_dir() else "")
    draw_plots(folder)


def write_adapter(setting: Setting, listener: Listener) -> None:
    """Write the best evaluated state, the last one, or the soup that the recipe asks for, into the run folder.

    Nothing is written where every client keeps an adapter of its own: there is no global one.
    """
    folder, home = setting.folder, setting.home
    frame = frame_of(home.attached, setting.recipe.adapter)
    if SCHEMES[setting.recipe.aggregation.scheme].keeps(tuple(frame.shapes)):
        listener.noted("there is no global adapter: each client keeps its own; export one from where a client keeps it")
        return
    checkpoint = final_checkpoint(folder)
    if checkpoint.shared:
        home.attached.load_shared(checkpoint.shared)
    world = world_of(checkpoint)
    if setting.recipe.run.soup != "none":
        world = soup(folder, frame, lambda made: score_centrally(setting.step, made, setting.test_rows))
        if score := score_centrally(setting.step, world, setting.test_rows):
            folder.describe(soup_accuracy=score.accuracy, soup_loss=score.loss)
            listener.noted(f"the soup of the kept checkpoints: {score.accuracy:.1%} of the test rows right")
    home.attached.shift_to(world.shift)
    home.attached.load(world.state)
    home.attached.save(folder.adapter_path, base=home.loaded.source)
