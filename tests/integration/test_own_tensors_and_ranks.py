"""What clients keep to themselves stays with them, survives crashes, and is theirs to export; ranks are kept honest."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from flwr.app import Context, RecordDict
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from fedtune.cli.export import export as export_command
from fedtune.errors import RunError
from fedtune.recipe import Recipe
from fedtune.runs.export import export
from fedtune.runs.folder import RunFolder
from fedtune.runs.kept import Keep
from fedtune.wire import Update, decode, encode
from server.app import make_app, run_config
from server.listener import Listener
from simulations.cohort import CohortGrid, work_with
from simulations.population import Population
from simulations.simulate import simulate
from tests.federation import Recording, federate, folder_of, recipe_for
from tests.integration.test_every_method import logits
from tests.worlds import write_rows

FEDSA = ('method="fedsa-lora"', "data.holdout_fraction=0.25")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 60)


@pytest.fixture(scope="module")
def personal(tiny_bert_folder: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run of FedSA-LoRA."""
    folder = tmp_path_factory.mktemp("personal")
    return RunFolder.open(simulate(recipe_for(tiny_bert_folder, rows, folder, *FEDSA)))


def kept_of(run: RunFolder, client: str) -> Path:
    return run.path / "clients" / run.info.id / client


def test_b_and_the_head_never_reach_the_coordinator(personal: RunFolder) -> None:
    first, last = personal.checkpoints.load("0"), personal.checkpoints.load("latest")
    moved = {name for name, tensor in last.state.items() if not torch.equal(tensor, first.state[name])}
    assert moved == {name for name in last.state if name.endswith(".lora_A")}
    assert all(r.central is None and r.federated is not None for r in personal.rounds())


def test_what_a_client_keeps_is_its_owners_alone_and_of_two_rounds(personal: RunFolder) -> None:
    folder = kept_of(personal, "client-1")
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["kept.json", "round-000002.safetensors", "round-000003.safetensors"]
    assert stat.S_IMODE((folder / files[1]).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_every_client_exports_an_adapter_of_its_own(personal: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no global adapter"):
        export(personal, tmp_path / "none")
    outputs = []
    for client in ("client-0", "client-1"):
        done = CliRunner().invoke(
            export_command, [str(kept_of(personal, client)), "--to", str(tmp_path / client)], catch_exceptions=False
        )
        assert done.exit_code == 0, done.output
        base = AutoModelForSequenceClassification.from_pretrained(personal.recipe.model.name, num_labels=2)
        outputs.append(logits(PeftModel.from_pretrained(base, str(tmp_path / client))))
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3
    assert not personal.adapter_path.exists()


def test_a_run_is_resumed_with_what_its_clients_kept(
    personal: RunFolder, tiny_bert_folder: Path, rows: Path, tmp_path: Path
) -> None:
    """The coordinator lost its last round and repeats it: clients start it from what they kept before it."""
    recipe = recipe_for(tiny_bert_folder, rows, tmp_path, *FEDSA)
    simulate(recipe)
    run = RunFolder.open(folder_of(recipe))
    for path in run.checkpoints.folder.glob("round-000003/*"):
        path.write_bytes(b"cut")
    again = RunFolder.open(simulate(recipe, resume=True))
    assert [r.state_digest for r in again.rounds()] == [r.state_digest for r in personal.rounds()]
    assert [r.federated for r in again.rounds()] == [r.federated for r in personal.rounds()]
    for client in ("client-0", "client-3"):
        ours, theirs = Keep(again.path / "clients"), Keep(personal.path / "clients")
        mine = ours.read(again.info.id, client, before=9)
        other = theirs.read(personal.info.id, client, before=9)
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_a_damaged_file_of_a_client_is_refused_by_name_and_the_round_goes_on(
    tiny_bert_folder: Path, rows: Path, tmp_path: Path
) -> None:
    first = recipe_for(tiny_bert_folder, rows, tmp_path, *FEDSA, "federation.rounds=1")
    simulate(first)
    run = RunFolder.open(folder_of(first))
    (kept_of(run, "client-2") / "round-000001.safetensors").write_bytes(b"half")
    simulate(recipe_for(tiny_bert_folder, rows, tmp_path, *FEDSA), resume=True)
    outcomes = {c.client: c.outcome for c in run.rounds()[2].clients}
    assert outcomes.pop("client-2") == "run-error"
    assert set(outcomes.values()) == {"ok"}


def test_scaffold_and_a_server_optimiser_leave_their_memory_in_the_checkpoint(
    tiny_bert_folder: Path, rows: Path, tmp_path: Path
) -> None:
    lines = ("training.scaffold=true", 'aggregation.server_optimizer="yogi"', "aggregation.server_lr=0.01")
    run = RunFolder.open(simulate(recipe_for(tiny_bert_folder, rows, tmp_path, *lines)))
    parts = run.checkpoints.load("latest").parts
    assert parts.keys() == {"control", "memory"}
    assert all(float(tensor.abs().sum()) > 0 for tensor in parts["control"].values())


@pytest.mark.parametrize(
    ("lines", "served"),
    [
        (('method="flexlora"',), True),
        (('method="fed-sb"',), True),
        (('method="ravan"',), True),
        (('method="fedit"',), False),
    ],
)
def test_a_client_of_its_own_smaller_rank_is_served_where_the_scheme_can(
    tiny_bert_folder: Path, rows: Path, tmp_path: Path, lines: tuple[str, ...], served: bool
) -> None:
    recipe = recipe_for(tiny_bert_folder, rows, tmp_path, *lines, "federation.max_failed_rounds=9")
    place = federate(recipe, max_rank=2)
    rounds = RunFolder.open(folder_of(recipe)).rounds()
    for record in rounds[1:]:
        assert {c.outcome for c in record.clients} == {"ok" if served else "adapter-error"}
        assert {c.rank for c in record.clients} == {2 if served else 0}
    if served:  # from the second round on the coordinator knows, and sends no more than is trained
        assert place.down[3]["client-0"] < place.down[1]["client-0"]
        narrow = recipe_for(tiny_bert_folder, rows, tmp_path, *lines, 'federation.ranks=["*=2"]', 'run.name="told"')
        federate(narrow)
        assert RunFolder.open(folder_of(narrow)).rounds()[-1].state_digest == rounds[-1].state_digest


class Liar(Recording):
    """One of its clients says that it has another rank than it has."""

    claim = 0

    def answer_all(self, jobs):
        for (client, _), reply in zip(jobs, super().answer_all(jobs), strict=True):
            message = decode(reply)
            lies = client == "client-1" and isinstance(message, Update)
            yield encode(replace(message, rank=self.claim)) if lies else reply


@pytest.mark.parametrize(
    ("claim", "outcome"), [(0, "wrong-rank"), (4, "wrong-rank"), (1, "mismatched-update"), (3, "wrong-rank")]
)
def test_a_lied_rank_is_refused_and_the_round_completes(
    tiny_bert_folder: Path, rows: Path, tmp_path: Path, claim: int, outcome: str
) -> None:
    lines = ('method="flexlora"', 'federation.ranks=["*1=2"]', "federation.rounds=1")
    recipe = recipe_for(tiny_bert_folder, rows, tmp_path, *lines)
    place = Liar(Population.of(recipe), tmp_path / "kept")
    place.claim = claim
    run_with(place, recipe)
    record = RunFolder.open(folder_of(recipe)).rounds()[1]
    outcomes = {c.client: c.outcome for c in record.clients}
    assert outcomes.pop("client-1") == outcome
    assert set(outcomes.values()) == {"ok"}
    assert record.aggregated


def run_with(place: Recording, recipe: Recipe) -> None:
    grid = CohortGrid(Population.of(recipe).names, work_with(place))
    make_app(Listener())(grid, Context(1, 1, {}, RecordDict(), dict(run_config(recipe, resume=False))))
