"""A split recipe, simulated in one process and deployed over streams, ends in the same adapter."""

import pytest

from fedtune.recipe.adapter import AdapterSection
from fedtune.runs.folder import RunFolder
from simulations.simulate import simulate
from tests.integration.processes import Federation, eventually
from tests.integration.test_parity import assert_same_run
from tests.split.split_models import folder as model_of
from tests.worlds import tiny_recipe, write_rows

pytestmark = pytest.mark.processes
SFPROMPT = {"prompt_tokens": 2, "local_epochs": 1, "keep": 0.6, "activations": "bf16"}
SPLITFED = {"train_head": True, "in_flight": 2}


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


def test_a_client_that_is_killed_in_its_share_costs_the_round_nothing(tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", 48)
    with Federation(recipe_of(rows, tmp_path, "killed", SPLITFED, epochs=4), tmp_path / "world") as world:
        world.make_keys()
        coordinator, *clients = [world.coordinator(), *world.clients()]
        eventually(lambda: world.rounds_done() >= 1)  # round 0 is scored: both are asked for round 1 about now
        clients[0].kill()
        clients[0] = world.client(world.names[0])
        assert [process.wait() for process in (coordinator, *clients)] == [0] * 3
        # Killed before it was asked, or back too late, it is not in a round; in none it is left out.
        rounds = [[client.outcome for client in round_.clients] for round_ in world.run.rounds()[1:]]
        assert len(rounds) == 2
        assert all(set(outcomes) == {"ok"} for outcomes in rounds)
