"""A split recipe, simulated in one process and deployed over streams, ends in the same adapter."""

import os
import signal

import pytest

from fedtune.recipe.adapter import AdapterSection
from fedtune.runs.folder import RunFolder
from simulations.simulate import simulate
from tests.integration.processes import Federation, Forked, run_fedtune
from tests.integration.test_parity import assert_same_run
from tests.split.split_models import folder as model_of
from tests.worlds import tiny_recipe, write_rows

pytestmark = pytest.mark.processes
SFPROMPT = {"prompt_tokens": 2, "local_epochs": 1, "keep": 0.6, "activations": "bf16"}
SPLITFED = {"train_head": True, "in_flight": 2, "body": "full"}


def recipe_of(rows, folder, name, split, **training):
    usual = AdapterSection()
    return tiny_recipe(
        model_of("bert"),
        rows,
        folder,
        data={"source": str(rows), "test_fraction": 0.25, "partition": {"clients": 2}},
        adapter={"kind": "full", "rank": usual.rank, "targets": usual.targets},
        training={"batch_size": 4, "accumulate": 2} | training,
        federation={"rounds": 2, "min_clients": 2},
        split={"head_layers": 1, "tail_layers": 1} | split,
        run={"name": name, "folder": str(folder), "tensorboard": False},
    )


@pytest.mark.parametrize("split", [pytest.param(SFPROMPT, id="sfprompt"), pytest.param(SPLITFED, id="splitfed")])
def test_simulated_and_deployed_end_alike(tmp_path, split, record_property):
    rows = write_rows(tmp_path / "rows.jsonl", 48)
    with Federation(recipe_of(rows, tmp_path, "deployed", split), tmp_path / "world") as world:
        world.make_keys()
        processes = [world.coordinator(), *world.clients()]
        simulate(recipe_of(rows, tmp_path, "simulated", split))
        assert [process.wait() for process in processes] == [0] * 3
        record_property("largest_gap", assert_same_run(RunFolder.open(tmp_path / "simulated"), world.run))


class KilledInItsShare(Forked):
    """A client that a power cut ends when the body has answered it, before any gradient has gone back."""

    @staticmethod
    def does(args, log):
        from client.split.remote import RemoteBody

        RemoteBody.backward = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        run_fedtune(args, log)


def test_a_client_that_is_killed_in_its_share_rejoins_and_counts(tmp_path):
    """The coordinator waits for it, and the run ends as if nothing had happened."""
    rows = write_rows(tmp_path / "rows.jsonl", 48)
    with Federation(recipe_of(rows, tmp_path, "killed", SPLITFED), tmp_path / "world") as world:
        world.make_keys()
        first, second = world.names
        others = [world.coordinator(), world.client(second)]
        killed = world.client(first, start=KilledInItsShare)
        simulate(recipe_of(rows, tmp_path, "simulated", SPLITFED))
        assert killed.wait() == -signal.SIGKILL
        assert world.rounds_done() == 1  # round 0, which trains nothing: round 1 is open, and waits for it
        again = world.client(first)
        assert [process.wait() for process in (*others, again)] == [0] * 3
        assert_same_run(RunFolder.open(tmp_path / "simulated"), world.run)
