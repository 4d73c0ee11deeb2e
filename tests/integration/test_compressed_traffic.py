"""Compressed uploads and downloads from end to end: they learn, resume to the bit, and are as small as was planned."""

from pathlib import Path

import pytest
import torch

from client.held import Held
from fedtune.compression import make_pipeline
from fedtune.errors import MalformedMessage
from fedtune.recipe import Recipe
from fedtune.runs.folder import RunFolder
from fedtune.state import digest
from fedtune.wire import Task
from server.plan_bytes import plan_bytes
from simulations.simulate import simulate
from tests.federation import federate, folder_of, recipe_for
from tests.worlds import write_rows

BIG = ("adapter.rank=24", 'adapter.targets="all-linear"')
RECIPES: dict[str, tuple[str, ...]] = {
    "ComPEFT": ('method="fedit"', 'compression.upload=["ternary", "entropy"]', *BIG),
    "by sigma": ('method="fed-sb"', 'compression.upload=["ternary", "rice"]', 'compression.scale="sigma"', *BIG),
    "both ways": (
        'method="fed-sb"',
        'compression.upload=["ternary", "entropy"]',
        'compression.download=["ternary", "entropy"]',
        "compression.density=0.2",
        *BIG,
    ),
    "EF21": ('method="fed-sb"', 'compression.upload=["top-k", "fp16", "entropy"]', 'compression.feedback="ef21"', *BIG),
    "int8": ('method="fed-sb"', 'compression.upload=["rotate", "int8", "entropy"]', *BIG),
    "nf4": ('method="fedit"', 'compression.upload=["nf4"]', *BIG),
    "different ranks": (
        'method="fed-sb"',
        'compression.upload=["ternary", "bitmask"]',
        'federation.ranks=["*1=8", "*2=16"]',
        *BIG,
    ),
    "an adapter that restarts": ('method="flora"', 'compression.upload=["int8", "entropy"]', *BIG),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 60)


@pytest.mark.parametrize("name", RECIPES)
def test_a_compressed_run_resumes_to_the_bit_and_is_as_small_as_planned(
    name: str, tiny_bert_folder: Path, rows: Path, tmp_path: Path
) -> None:
    def recipe(run: str, rounds: int) -> Recipe:
        lines = (*RECIPES[name], f'run.name="{run}"', f"federation.rounds={rounds}")
        return recipe_for(tiny_bert_folder, rows, tmp_path, *lines)

    whole = RunFolder.open(simulate(recipe("whole", 3)))
    simulate(recipe("parts", 1))
    parts = RunFolder.open(simulate(recipe("parts", 3), resume=True, workers=2))
    assert [r.state_digest for r in parts.rounds()] == [r.state_digest for r in whole.rounds()]
    assert {c.outcome for r in whole.rounds() for c in r.clients} == {"ok"}
    assert whole.rounds()[-1].train_loss < whole.rounds()[1].train_loss + 0.05
    plan = plan_bytes(recipe("planned", 3))
    late = [client for record in whole.rounds()[2:] for client in record.clients if not client.rank]
    # An entropy coder finds a little more order in what training leaves than in the random numbers of the plan.
    assert sum(c.bytes_up for c in late) / len(late) == pytest.approx(plan.round.up, rel=0.01, abs=32)
    assert plan.round.up < plan.fedit.up / 4


def test_ternary_uploads_are_a_twentieth_of_the_numbers(tiny_bert_folder: Path, rows: Path, tmp_path: Path) -> None:
    plain = plan_bytes(recipe_for(tiny_bert_folder, rows, tmp_path, 'method="fedit"', *BIG))
    small = plan_bytes(recipe_for(tiny_bert_folder, rows, tmp_path, *RECIPES["ComPEFT"]))
    assert plain.round.up / small.round.up > 40


def test_clients_that_missed_steps_are_sent_them_or_the_whole_state(
    tiny_bert_folder: Path, rows: Path, tmp_path: Path
) -> None:
    lines = (*RECIPES["both ways"], "federation.clients_per_round=1", "federation.rounds=8")
    recipe = recipe_for(tiny_bert_folder, rows, tmp_path, *lines)
    federate(recipe)
    rounds = RunFolder.open(folder_of(recipe)).rounds()[1:]
    seen: set[str] = set()
    first, later = [], []
    for record in rounds:
        (first if record.clients[0].client not in seen else later).append(record.clients[0].bytes_down)
        seen.add(record.clients[0].client)
    assert later
    assert max(later) < min(first)


def test_steps_that_lead_elsewhere_are_refused_and_unknown_ones_ask_for_the_whole(
    tiny_bert_folder: Path, rows: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(tiny_bert_folder, rows, tmp_path, *RECIPES["both ways"])
    pipeline = make_pipeline(recipe.compression, download=True)
    state = {"a": torch.zeros(40)}
    held = Held(pipeline, seed=0)
    whole = Task("train", "r", 1, {}, "", "", "", state)
    assert held.whole(whole) is whole
    step = pipeline.encode({"a": torch.ones(40)}, seed=1)
    foreign = Task("train", "r", 2, {}, "", "", "", {}, chain=("ab", "cd"), chain_rounds=(1,), steps=(step,))
    assert held.whole(foreign) is None
    lies = Task("train", "r", 2, {}, "", "", "", {}, chain=(digest(state), "cd"), chain_rounds=(1,), steps=(step,))
    with pytest.raises(MalformedMessage, match="do not lead to the state"):
        held.whole(lies)
