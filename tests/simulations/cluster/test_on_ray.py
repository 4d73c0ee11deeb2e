"""On Ray itself, where it is installed: the bytes of one process, and a sentence when an actor is killed."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fedtune.errors import RunError
from fedtune.runs.folder import RunFolder
from fedtune.runs.record import RoundRecord
from server.listener import Listener
from simulations.cluster.connect import connected
from simulations.simulate import simulate
from tests.simulations.cluster.test_cluster_runs import SCAFFOLD, digests, recipe_for
from tests.worlds import write_rows

pytest.importorskip("ray")
pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A cluster of this machine's own, for all tests: it takes long to start."""
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[3])
    with connected("local") as found:
        yield found
    os.environ["PYTHONPATH"] = before


class Killer(Listener):
    """Kills an actor after the first round."""

    def finished(self, record: RoundRecord) -> None:
        if record.round == 1:
            desks = [p for p in psutil.Process().children(recursive=True) if "ray::Desk" in " ".join(p.cmdline())]
            os.kill(desks[0].pid, signal.SIGKILL)


def test_actors_end_with_the_bytes_of_one_process_and_a_dead_one_is_a_sentence(
    ray: Any, tiny_bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.run.draw_plots", lambda _: None)
    rows = write_rows(tmp_path / "rows.jsonl", 120)
    federation = {"rounds": 3}
    one = digests(recipe_for(tiny_bert_folder, rows, tmp_path, "one", federation=federation))
    killed = recipe_for(tiny_bert_folder, rows, tmp_path, "killed", federation=federation)
    with pytest.raises(RunError, match=r"a Ray actor died: .* go on with --resume"):
        simulate(killed, ray="local", workers=2, listener=Killer())
    assert len(RunFolder.open(tmp_path / "killed").rounds()) == 2
    assert digests(killed, ray="local", workers=2, resume=True) == one
    kept = digests(recipe_for(tiny_bert_folder, rows, tmp_path, "kept", **SCAFFOLD))
    assert digests(recipe_for(tiny_bert_folder, rows, tmp_path, "apart", **SCAFFOLD), ray="local", workers=2) == kept
