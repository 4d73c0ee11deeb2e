"""TensorBoard, MLflow and the PNGs, read back by their own readers."""

import importlib.util
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from runs_examples import make_recipe, make_record, make_state, realistic_rounds, write_run

from fedtune.errors import RunError
from fedtune.runs.checkpoint import Checkpoint
from fedtune.runs.folder import RunFolder
from fedtune.runs.log import MLflowSink, RoundSinks, TensorBoardSink, open_sinks, scalars
from fedtune.runs.plots import PICTURES, draw_picture, draw_plots
from fedtune.runs.record import RoundRecord, ScoreRecord
from fedtune.runs.summary import summarise_rounds


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_tensorboard_reads_back_every_round(tmp_path: Path) -> None:
    records = realistic_rounds(3)
    with RunFolder.create(make_recipe(tmp_path)) as folder:
        sinks = open_sinks(folder)
        for record in records:
            sinks.write(record)
        sinks.close()
    read = events(folder.tensorboard_path)
    assert set(read.Tags()["scalars"]) == set(scalars(records[0])) | set(scalars(records[-1]))
    for name in ("central/loss", "central/accuracy", "traffic/bytes_up"):
        written = [(r.round, scalars(r)[name]) for r in records]
        assert [(e.step, e.value) for e in read.Scalars(name)] == [(s, pytest.approx(v)) for s, v in written]
    assert read.Tags()["histograms"] == ["clients/loss"]


def test_a_resumed_run_s_curve_has_each_round_once(tmp_path: Path) -> None:
    with RunFolder.create(make_recipe(tmp_path)) as folder:
        sink = TensorBoardSink(folder)
        for round_ in range(3):
            folder.finish_round(make_record(round_), Checkpoint(round_, make_state(round_)))
            sink.write(make_record(round_, seconds=1.0))
        folder.journal.append(make_record(3))
        sink.write(make_record(3, seconds=1.0))
        sink.close()
    with RunFolder.create(make_recipe(tmp_path), resume=True) as folder:
        folder.rewind()
        sink = TensorBoardSink(folder)
        sink.write(make_record(3, seconds=2.0))
        sink.close()
    assert [(e.step, e.value) for e in events(folder.tensorboard_path).Scalars("round/seconds")] == [
        (0, 1.0), (1, 1.0), (2, 1.0), (3, 2.0),
    ]  # fmt: skip


def test_logs_can_be_turned_off(tmp_path: Path) -> None:
    with RunFolder.create(make_recipe(tmp_path, tensorboard=False)) as folder:
        sinks = open_sinks(folder)
        sinks.write(make_record(0))
        sinks.close()
    assert not folder.tensorboard_path.exists()


class Broken:
    """A sink whose disk or server is gone."""

    def __init__(self) -> None:
        self.calls = 0

    def write(self, record: RoundRecord) -> None:
        self.calls += 1
        raise ConnectionError("no route to the tracking server")

    def close(self) -> None:
        raise AssertionError("dropped sinks are not closed")


def test_a_broken_log_does_not_stop_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = Broken()
    with RunFolder.create(make_recipe(tmp_path)) as folder:
        sinks = RoundSinks([broken, TensorBoardSink(folder)])
        with caplog.at_level(logging.WARNING):
            sinks.write(make_record(0))
            sinks.write(make_record(1))
        sinks.close()
    assert broken.calls == 1
    assert "Broken failed and is left out from here on: no route" in caplog.text
    assert [e.step for e in events(folder.tensorboard_path).Scalars("round/seconds")] == [0, 1]


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is not None, reason="MLflow is installed")
def test_mlflow_that_is_not_installed_says_how_to_get_it(tmp_path: Path) -> None:
    with (
        RunFolder.create(make_recipe(tmp_path, mlflow=True)) as folder,
        pytest.raises(RunError, match=r"pip install 'fedtune\[mlflow\]'"),
    ):
        open_sinks(folder)


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="MLflow is not installed")
def test_mlflow_keeps_one_run_over_a_resumption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with RunFolder.create(make_recipe(tmp_path, mlflow=True)) as folder:
        for round_ in range(2):
            sink = MLflowSink(folder)
            sink.write(make_record(round_))
            sink.close()
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("fedtune")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags["fedtune.run"] == folder.info.id
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "round/seconds")] == [
        (0, 1.5),
        (1, 1.5),
    ]


def test_every_picture_is_drawn_and_not_blank(tmp_path: Path) -> None:
    paths = draw_plots(RunFolder.open(write_run(tmp_path, realistic_rounds(6))))
    assert set(paths) == set(PICTURES) == {"learning.png", "traffic.png", "clients.png", "summary.png"}
    for path in paths.values():
        with Image.open(path) as image:
            assert image.width == 1430
            assert len(image.convert("RGB").getcolors(10**6) or []) > 50


@pytest.mark.parametrize(
    "records",
    [
        [],
        [make_record(0, clients=())],
        [make_record(1, central=ScoreRecord(examples=1, loss=float("nan"), accuracy=0.0), train_loss=float("inf"))],
        [make_record(r, clients=()) for r in range(3)],
    ],
)
def test_runs_with_little_to_show_are_drawn_too(records: list[RoundRecord]) -> None:
    summary = summarise_rounds(records, name="n", status="running", task="causal-lm")
    for name in PICTURES:
        assert draw_picture(name, records, summary).startswith(b"\x89PNG")
