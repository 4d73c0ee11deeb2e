"""Where rounds are logged while a run goes on: TensorBoard by default, MLflow as an extra, behind one contract."""

import logging
import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

import torch

from fedtune.errors import RunError
from fedtune.runs.folder import RunFolder
from fedtune.runs.record import RoundRecord, ScoreRecord

logger = logging.getLogger(__name__)


class RoundSink(Protocol):
    """Something that is told each round as it is recorded."""

    def write(self, record: RoundRecord) -> None:
        """Take in one round."""
        ...

    def close(self) -> None:
        """Flush; nothing is written afterwards."""
        ...


class TensorBoardSink:
    """Scalars, and a histogram of the clients' losses, under the run folder's `tensorboard/`."""

    def __init__(self, folder: RunFolder) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Rounds that `rewind` dropped are dropped from the curves too.
        first = folder.journal.last_round() + 1
        self._writer = SummaryWriter(str(folder.tensorboard_path), purge_step=first if folder.resumed else None)
        self._started = _moment(folder)

    def write(self, record: RoundRecord) -> None:
        """Add the round's scalars and flush, so that a crash loses no finished round."""
        for name, value in scalars(record).items():
            # A moment for each round would tell how long it took.
            at = self._started if record.hides_clients else None
            self._writer.add_scalar(name, value, record.round, walltime=at)
        losses = [c.loss for c in record.clients if c.loss is not None and math.isfinite(c.loss)]
        if losses:
            self._writer.add_histogram("clients/loss", torch.tensor(losses), record.round)
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


class MLflowSink:
    """The same scalars in MLflow, at MLFLOW_TRACKING_URI; a resumed run goes on in the same MLflow run."""

    def __init__(self, folder: RunFolder) -> None:
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise RunError(
                "run.mlflow is on and MLflow is not installed; pip install 'fedtune[mlflow]' or turn it off"
            ) from error
        self._client = MlflowClient()
        self._run = self._find(folder) or self._start(folder)
        self._started = int(1000 * _moment(folder))

    def write(self, record: RoundRecord) -> None:
        """Log the round's scalars with the round as the step."""
        for name, value in scalars(record).items():
            at = self._started if record.hides_clients else None
            self._client.log_metric(self._run, name, value, timestamp=at, step=record.round)

    def close(self) -> None:
        """Mark the MLflow run as over."""
        self._client.set_terminated(self._run)

    def _find(self, folder: RunFolder) -> str | None:
        experiment = self._client.get_experiment_by_name("fedtune")
        if experiment is None:
            return None
        found = self._client.search_runs(
            [experiment.experiment_id], filter_string=f"tags.`fedtune.run` = '{folder.info.id}'", max_results=1
        )
        return str(found[0].info.run_id) if found else None

    def _start(self, folder: RunFolder) -> str:
        experiment = self._client.get_experiment_by_name("fedtune")
        identifier = experiment.experiment_id if experiment else self._client.create_experiment("fedtune")
        run = self._client.create_run(identifier, run_name=folder.info.name, tags={"fedtune.run": folder.info.id})
        for section, values in folder.recipe.model_dump(mode="json", exclude_defaults=True).items():
            self._client.log_param(run.info.run_id, section, str(values)[:500])
        return str(run.info.run_id)


class RoundSinks:
    """Several sinks as one; a sink that fails is dropped with a warning, for no log is worth a run."""

    def __init__(self, sinks: Sequence[RoundSink]) -> None:
        self._sinks = list(sinks)

    def write(self, record: RoundRecord) -> None:
        """Tell every sink that still works."""
        for sink in tuple(self._sinks):
            try:
                sink.write(record)
            except Exception as error:  # whatever a logging library raises
                self._drop(sink, error)

    def close(self) -> None:
        """Close every sink."""
        for sink in tuple(self._sinks):
            try:
                sink.close()
            except Exception as error:  # whatever a logging library raises
                self._drop(sink, error)
        self._sinks.clear()

    def _drop(self, sink: RoundSink, error: Exception) -> None:
        logger.warning("%s failed and is left out from here on: %s", type(sink).__name__, error)
        self._sinks.remove(sink)


def open_sinks(folder: RunFolder) -> RoundSinks:
    """The sinks that the recipe's `[run]` section asks for; RunError where one is not installed. After `rewind`."""
    run = folder.recipe.run
    wanted: dict[Callable[[RunFolder], RoundSink], bool] = {TensorBoardSink: run.tensorboard, MLflowSink: run.mlflow}
    return RoundSinks([kind(folder) for kind, on in wanted.items() if on])


def scalars(record: RoundRecord) -> dict[str, float]:
    """A round's numbers by the names that the logs use; what was not measured, or is kept back, is left out."""
    values: dict[str, float | None] = {
        **_score("central", record.central),
        **_score("federated", record.federated),
        "train/loss": record.train_loss,
        "train/update_norm": record.update_norm,
        "train/product_error": record.product_error,
        **({} if record.hides_clients else _work(record)),
    }
    return {name: value for name, value in values.items() if value is not None}


def _work(record: RoundRecord) -> dict[str, float | None]:
    good = sum(c.outcome == "ok" for c in record.clients)
    return {
        "traffic/bytes_up": record.bytes_up(),
        "traffic/bytes_down": record.bytes_down(),
        "round/seconds": record.seconds,
        "round/updates": good,
        "round/without_update": len(record.clients) - good,
        "round/staleness": record.staleness(),
        "round/virtual_seconds": record.virtual.seconds if record.virtual else None,
        "round/virtual_clock": record.virtual.clock_s if record.virtual else None,
    }


def _moment(folder: RunFolder) -> float:
    """When the run began, in seconds since 1970."""
    return datetime.fromisoformat(folder.info.started_at).timestamp()


def _score(where: str, score: ScoreRecord | None) -> dict[str, float | None]:
    return {} if score is None else {f"{where}/accuracy": score.accuracy, f"{where}/loss": score.loss}
