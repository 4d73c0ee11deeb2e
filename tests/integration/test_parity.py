"""One recipe, simulated and deployed, ends in the same adapter with the same bytes sent: DESIGN's central promise."""

import subprocess

import pytest

from fedtune.runs.folder import RunFolder
from simulations.simulate import simulate
from tests.integration.processes import SCRIPT, Federation, Forked, Installed
from tests.worlds import tiny_recipe, write_rows

pytestmark = pytest.mark.processes
LORA = {"kind": "lora", "init": "kaiming"}
FLORA = {"aggregation": {"scheme": "flora"}, "federation": {"ranks": ["*1=2", "*2=3"]}}
SCAFFOLD = {"training": {"scaffold": True, "optimizer": "sgd", "max_grad_norm": None, "lr": 0.1}}
TERNARY = {"upload": ["ternary", "entropy"], "download": ["int8", "entropy"], "density": 0.2}
TOLERANCE = 1e-6
"""Largest difference of any number of the adapter, fp32; where it was measured, one thread a process, it was 0."""


def recipe_of(model, rows, folder, name, **sections):
    return tiny_recipe(
        model,
        rows,
        folder,
        data={"source": str(rows), "test_fraction": 0.25, "holdout_fraction": 0.25, "partition": {"clients": 4}},
        federation={"rounds": 2, "min_clients": 4, **sections.pop("federation", {})},
        run={"name": name, "folder": str(folder), "tensorboard": False},
        **sections,
    )


def assert_same_run(simulated, deployed):
    """State, bytes each way, losses and both evaluations; only times and ids may differ."""
    ours, theirs = simulated.checkpoints.latest(), deployed.checkpoints.latest()
    assert ours.round == theirs.round
    assert ours.state.keys() == theirs.state.keys()
    gap = max(float((ours.state[name] - theirs.state[name]).abs().max()) for name in ours.state)
    assert gap <= TOLERANCE
    assert sum(float(tensor.abs().sum()) for tensor in ours.state.values()) > 0
    for a, b in zip(simulated.rounds(), deployed.rounds(), strict=True):
        assert a.round == b.round
        for mine, other in zip(a.clients, b.clients, strict=True):
            assert (mine.client, mine.outcome, mine.examples) == (other.client, other.outcome, other.examples)
            assert (mine.bytes_down, mine.bytes_up) == (other.bytes_down, other.bytes_up)
            assert mine.loss == pytest.approx(other.loss, rel=1e-6)
            assert mine.outcome == "ok"
        assert (a.central is None) == (b.central is None)
        for mine, other in ((a.central, b.central), (a.federated, b.federated)):
            if mine is None and other is None:
                continue
            assert mine.examples == other.examples
            assert mine.loss == pytest.approx(other.loss, rel=1e-6)
            assert mine.accuracy == pytest.approx(other.accuracy, abs=1e-9)
    return gap


@pytest.mark.parametrize(
    ("adapter", "others", "start"),
    [
        pytest.param({"kind": "square"}, {}, Installed, id="square"),
        pytest.param(LORA | {"dropout": 0.1}, {}, Forked, id="lora"),
        pytest.param(LORA, FLORA, Forked, id="flora of different ranks"),
        pytest.param(LORA, {"aggregation": {"scheme": "fedsa"}}, Forked, id="fedsa"),
        pytest.param({"kind": "square"}, SCAFFOLD, Forked, id="square with scaffold"),
        pytest.param({"kind": "square"}, {"compression": TERNARY}, Forked, id="ternary up, steps down"),
        pytest.param(LORA, {"compression": TERNARY | {"feedback": "ef21"}}, Forked, id="EF21 up, steps down"),
    ],
)
def test_simulated_and_deployed_end_alike(tiny_bert_folder, tmp_path, adapter, others, start, record_property):
    rows = write_rows(tmp_path / "rows.jsonl", 80)
    sections = {"adapter": {"rank": 4, "targets": "attention", **adapter}, **others}
    deployed = recipe_of(tiny_bert_folder, rows, tmp_path, "deployed", **sections)
    with Federation(deployed, tmp_path / "world", start) as world:
        enrol(world, installed=start is Installed)
        processes = [world.coordinator(), *world.clients()]
        simulate(recipe_of(tiny_bert_folder, rows, tmp_path, "simulated", **sections))
        assert [process.wait() for process in processes] == [0] * 5
        record_property("largest_gap", assert_same_run(RunFolder.open(tmp_path / "simulated"), world.run))


def enrol(world, *, installed):
    """By the command once; elsewhere by what the command calls."""
    if not installed:
        world.make_keys()
        return
    names = [word for name in world.names for word in ("--client", name)]
    subprocess.run([str(SCRIPT), "keys", "init", str(world.keys.folder), *names], check=True, timeout=60)
