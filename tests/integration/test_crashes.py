"""Power cuts over the real link: whoever is killed and started again, the run ends as one that was left alone."""

import pytest

from fedtune.runs.folder import RunFolder
from simulations.simulate import simulate
from tests.integration.processes import Federation, eventually
from tests.worlds import each_alone, tiny_recipe, write_rows

pytestmark = pytest.mark.processes
CLIENTS, ROUNDS = 3, 3


@pytest.fixture(scope="module")
def recipe_named(tiny_bert_folder, tmp_path_factory):
    """The same recipe under any name; a round takes long enough to be cut in the middle."""
    folder = tmp_path_factory.mktemp("crashes")
    rows = write_rows(folder / "rows.jsonl", 60)

    def named(name, **sections):
        data = {"source": str(rows), "test_fraction": 0.2, "partition": {"clients": CLIENTS}} | sections.pop("data", {})
        return tiny_recipe(
            tiny_bert_folder,
            rows,
            folder,
            data=data,
            **sections,
            adapter={"kind": "lora", "init": "kaiming", "dropout": 0.1, "rank": 4, "targets": "attention"},
            training={"steps": 80, "batch_size": 4, "lr": 0.003, "device": "cpu"},
            federation={"rounds": ROUNDS, "min_clients": CLIENTS, "min_replies": CLIENTS},
            run={"name": name, "folder": str(folder), "tensorboard": False},
        )

    return named


@pytest.fixture(scope="module")
def uninterrupted(recipe_named):
    """The rounds of a run that nobody disturbed."""
    return alone(recipe_named("uninterrupted"))


def alone(recipe):
    """The rounds of a run whose clients work each alone, as deployed ones do."""
    with each_alone():
        return RunFolder.open(simulate(recipe)).rounds()


def assert_same_rounds(run, uninterrupted, *, asked_again=""):
    """Every round once, every client once a round, and the same state after each.

    A client that lost the state that it held says so first, and is `asked_again`: its bytes count both replies.
    """
    rounds = run.rounds()
    assert [record.round for record in rounds] == list(range(ROUNDS + 1))
    assert [record.state_digest for record in rounds] == [record.state_digest for record in uninterrupted]
    for ours, theirs in zip(rounds, uninterrupted, strict=True):
        assert [(c.client, c.outcome) for c in ours.clients] == [(c.client, c.outcome) for c in theirs.clients]
        for mine, other in zip(ours.clients, theirs.clients, strict=True):
            assert mine.bytes_up == other.bytes_up or (mine.client == asked_again and mine.bytes_up > other.bytes_up)
    assert run.status == "finished"


def test_a_client_killed_in_a_round_and_started_again_is_counted_once(recipe_named, uninterrupted, tmp_path):
    with Federation(recipe_named("clients-killed"), tmp_path) as world:
        world.make_keys()
        coordinator, clients = world.coordinator(), dict(zip(world.names, world.clients(), strict=True))
        for lines, victim in ((2, "client-0"), (3, "client-1")):
            eventually(lambda n=lines: world.rounds_done() >= n)
            clients[victim].kill()
            assert world.rounds_done() == lines, "the round was over before the client was killed"
            clients[victim] = world.client(victim)
        assert [process.wait() for process in (coordinator, *clients.values())] == [0] * (CLIENTS + 1)
        assert_same_rounds(world.run, uninterrupted)
        assert (tmp_path / "client-0.log").read_text().count("connected to") == 2


def test_a_coordinator_killed_in_a_round_goes_on_while_its_clients_stay(recipe_named, uninterrupted, tmp_path):
    with Federation(recipe_named("coordinator-killed"), tmp_path) as world:
        world.make_keys()
        coordinator, clients = world.coordinator(), world.clients()
        for lines in (1, 3):
            eventually(lambda n=lines: world.rounds_done() >= n)
            coordinator.kill()
            assert world.rounds_done() == lines, "the run was further than the test wants it"
            assert world.run.status == "interrupted"
            coordinator = world.coordinator("--resume")
        assert [process.wait() for process in (coordinator, *clients)] == [0] * (CLIENTS + 1)
        assert_same_rounds(world.run, uninterrupted)
        assert len(world.run.info.resumptions) == 2
        assert (tmp_path / "client-0.log").read_text().count("connected to") == 3


def test_a_client_that_keeps_its_own_tensors_finds_them_again_after_a_kill(recipe_named, tmp_path):
    """FedSA-LoRA: B and the head are on the client's disk alone; killed in a round, the client goes on with them."""
    own = {"data": {"holdout_fraction": 0.2}, "aggregation": {"scheme": "fedsa"}}
    undisturbed = alone(recipe_named("own-undisturbed", **own))
    with Federation(recipe_named("own-killed", **own), tmp_path) as world:
        world.make_keys()
        coordinator, clients = world.coordinator(), dict(zip(world.names, world.clients(), strict=True))
        eventually(lambda: world.rounds_done() >= 3)
        clients["client-1"].kill()
        clients["client-1"] = world.client("client-1")
        assert [process.wait() for process in (coordinator, *clients.values())] == [0] * (CLIENTS + 1)
        assert_same_rounds(world.run, undisturbed)
        assert [r.federated for r in world.run.rounds()] == [r.federated for r in undisturbed]


@pytest.mark.parametrize("feedback", ["classic", "ef21"])
def test_what_a_client_did_not_send_outlives_a_kill(feedback, recipe_named, tmp_path):
    """Ternary uploads and downloads: the residual, or copy, is on the client's disk, and no round adds it twice."""
    small = {"upload": ["ternary", "entropy"], "download": ["ternary", "entropy"], "density": 0.1, "feedback": feedback}
    undisturbed = alone(recipe_named(f"{feedback}-undisturbed", compression=small))
    with Federation(recipe_named(f"{feedback}-killed", compression=small), tmp_path) as world:
        world.make_keys()
        coordinator, clients = world.coordinator(), dict(zip(world.names, world.clients(), strict=True))
        eventually(lambda: world.rounds_done() >= 3)
        clients["client-1"].kill()
        clients["client-1"] = world.client("client-1")
        assert [process.wait() for process in (coordinator, *clients.values())] == [0] * (CLIENTS + 1)
        assert_same_rounds(world.run, undisturbed, asked_again="client-1")
