"""What `fedtune bytes` says before a run and what the run measures are within one per cent of each other."""

from io import StringIO

import pytest
from rich.console import Console

from fedtune.runs.folder import RunFolder
from server.cli_bytes import render
from server.plan_bytes import plan_bytes
from simulations.simulate import simulate
from tests.federation import federate, folder_of, recipe_for
from tests.split.split_models import folder as model_of
from tests.worlds import write_rows

BIG = ("adapter.rank=24", 'adapter.targets="all-linear"')
RECIPES = {
    "fed-sb": ('method="fed-sb"', *BIG),
    "fedit in bf16": ('method="fedit"', *BIG, 'compression.upload=["bf16"]'),
    "rolora": ('method="rolora"', *BIG, "federation.rounds=4"),
    "fedex-lora": ('method="fedex-lora"', *BIG),
    "scaffold": ('method="fed-sb"', *BIG, "training.scaffold=true"),
    "encoded downloads": ('method="fed-sb"', *BIG, 'compression.download=["fp16"]'),
    "ef21": ('method="fed-sb"', *BIG, 'compression.upload=["bf16"]', 'compression.feedback="ef21"'),
    "held out rows": ('method="fed-sb"', *BIG, "data.holdout_fraction=0.25"),
    "some of the clients": ('method="fed-sb"', *BIG, "federation.clients_per_round=2", "federation.rounds=6"),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 60)


@pytest.mark.parametrize("name", RECIPES)
def test_the_plan_and_the_run_are_within_one_per_cent(name, tiny_bert_folder, rows, tmp_path):
    recipe = recipe_for(tiny_bert_folder, rows, tmp_path, *RECIPES[name])
    plan = plan_bytes(recipe)
    federate(recipe)
    rounds = RunFolder.open(folder_of(recipe)).rounds()
    late = [client for record in rounds[-2:] for client in record.clients]
    assert sum(c.bytes_up for c in late) / len(late) == pytest.approx(plan.round.up, rel=0.01)
    if name != "some of the clients":  # whether a client was there in the round before decides what it is sent
        assert sum(c.bytes_down for c in late) / len(late) == pytest.approx(plan.round.down, rel=0.01)
    assert sum(r.bytes_up() for r in rounds) == pytest.approx(plan.run.up, rel=0.01)
    assert sum(r.bytes_down() for r in rounds) == pytest.approx(plan.run.down, rel=0.01)


def test_the_table_sets_the_recipe_beside_fedit(tiny_bert_folder, rows, tmp_path):
    plan = plan_bytes(recipe_for(tiny_bert_folder, rows, tmp_path, *RECIPES["fed-sb"]))
    numbers = 2 * (4 * 32 * 64 + 2 * 32 * 96) + 32 * 64 + 2 * 33
    assert plan.fedit.up == plan.fedit.down == 4 * numbers
    console = Console(width=120, file=StringIO())
    console.print(render(plan))
    assert "FedIT rank 32 in fp32" in console.file.getvalue()


def test_of_a_split_model_the_sums_leave_activations_out_and_say_so(rows, tmp_path):
    lines = ('method="sfprompt"', 'adapter.targets="all-linear"', 'split.activations="fp16"')
    recipe = recipe_for(model_of("bert"), rows, tmp_path, *lines)
    plan = plan_bytes(recipe)
    assert plan.fedit is None
    tensor = 4 + 2 * (16 + 5) * 16
    assert (plan.row.up, plan.row.down) == (2 * tensor, 2 * tensor)
    simulate(recipe)
    record = RunFolder.open(folder_of(recipe)).rounds()[-1]
    assert record.clients[0].bytes_up == pytest.approx(plan.round.up, rel=0.02)  # more metrics stand in the header
    console = Console(width=120, file=StringIO())
    console.print(render(plan))
    assert "all clients, without activations" in console.file.getvalue()
    assert "fedtune split plan" in console.file.getvalue()
    assert "FedIT" not in console.file.getvalue()
