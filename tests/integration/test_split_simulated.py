"""Split recipes from end to end in one process: they learn, resume to the bit, and each phase has its switch."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForSequenceClassification

from fedtune.recipe import Recipe
from fedtune.recipe.load import parse_recipe
from fedtune.runs.export import export
from fedtune.runs.folder import RunFolder
from fedtune.split.base import Smashed
from fedtune.split.exported import load_exported
from fedtune.split.local import LocalBody, body_model
from fedtune.split.release import release_of, said
from fedtune.training.resident import Resident
from simulations.simulate import simulate
from tests.federation import recipe_for
from tests.split.split_models import batch
from tests.split.split_models import folder as model_of
from tests.worlds import tiny_recipe, write_rows

WORDS = ("red", "blue", "green")
FULL = {"kind": "full", "rank": 16, "targets": "all-linear"}


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost more than the runs."""
    monkeypatch.setattr("server.run.draw_plots", lambda _: None)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 60 pictures, dark ones and light ones."""
    folder = tmp_path_factory.mktemp("images")
    draw = torch.Generator().manual_seed(0)
    for label, mean in (("dark", 70), ("light", 180)):
        (folder / label).mkdir()
        for position in range(30):
            pixels = (mean + 40 * torch.randn(16, 16, 3, generator=draw)).clamp(0, 255).byte().numpy()
            Image.fromarray(pixels).save(folder / label / f"{position}.png")
    return folder


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows whose answer repeats a word of the prompt."""
    path = tmp_path_factory.mktemp("answers") / "rows.jsonl"
    rows = [{"prompt": f"{WORDS[i % 3]} ?", "answer": WORDS[i % 3]} for i in range(36)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pictures(images: Path, folder: Path, *lines: str) -> Recipe:
    """SFPrompt on a tiny ViT: three clients, two rounds."""
    keys = {
        "method": '"sfprompt"',
        "model.name": f'"{model_of("vit")}"',
        "model.task": '"image-classification"',
        "model.image_size": "16",
        "data.source": f'"{images}"',
        "data.test_fraction": "0.25",
        "data.partition.clients": "3",
        "training.batch_size": "4",
        "training.lr": "0.01",
        "training.device": '"cpu"',
        "federation.rounds": "2",
        "run.folder": f'"{folder}"',
        "run.tensorboard": "false",
    }
    keys |= {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    return parse_recipe("\n".join(f"{key} = {value}" for key, value in keys.items())).recipe


def run(recipe: Recipe, **options: Any) -> RunFolder:
    folder = RunFolder.open(simulate(recipe, **options))
    assert folder.status == "finished"
    assert all(client.outcome == "ok" for record in folder.rounds() for client in record.clients)
    return folder


def digests(folder: RunFolder) -> list[str]:
    return [record.state_digest for record in folder.rounds()]


def test_pictures_are_learned_and_the_export_is_the_model_that_learned(images: Path, tmp_path: Path) -> None:
    folder = run(pictures(images, tmp_path, "training.epochs=4", "split.local_epochs=4"))
    scores = [record.central.accuracy for record in folder.rounds() if record.central]
    assert scores[-1] > 0.9 > scores[0]
    home = Resident.build(folder.recipe)
    home.attached.load(folder.checkpoints.load("latest").state)
    inputs = batch("vit")
    del inputs["labels"]
    exported = load_exported(export(folder, tmp_path / "weights", checkpoint="latest").path)
    assert home.parts is not None
    with torch.no_grad():
        smashed = home.parts.head(inputs)
        expected = home.parts.tail(Smashed(body_model(folder.recipe)(smashed.hidden), None), inputs).logits
        assert (exported(**inputs).logits - expected).abs().max() <= 1e-5
    export(folder, tmp_path / "weights", force=True)


def test_answers_are_learned(answers: Path, tmp_path: Path) -> None:
    lines = (
        'model.task="causal-lm"',
        "model.labels=[]",
        "data.partition.clients=3",
        'adapter.kind="full"',
        'adapter.targets="all-linear"',
        "split.head_layers=1",
        "split.prompt_tokens=3",
        "split.deep_prompts=true",
        "split.local_epochs=1",
        "split.keep=0.5",
        "training.epochs=8",
    )
    recipe = recipe_for(model_of("llama"), answers, tmp_path, *lines)
    folder = run(recipe)
    losses = [record.central.loss for record in folder.rounds() if record.central]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    "lines",
    [
        ("training.accumulate=3", 'split.activations="int8"'),
        (
            'method=""',
            'adapter.kind="lora"',
            "adapter.rank=2",
            "split.head_layers=1",
            'split.body="lora"',
            "data.holdout_fraction=0.2",
            'compression.download=["int8"]',
        ),
    ],
    ids=["sfprompt in int8", "lora in tail and body"],
)
def test_a_run_resumes_to_the_bit_and_workers_change_none(lines: tuple[str, ...], images: Path, tmp_path: Path) -> None:
    whole = run(pictures(images, tmp_path, *lines, 'run.name="whole"'))
    run(pictures(images, tmp_path, *lines, 'run.name="parts"', "federation.rounds=1"))
    parts = run(pictures(images, tmp_path, *lines, 'run.name="parts"'), resume=True, workers=2)
    assert digests(parts) == digests(whole)
    assert [record.federated for record in parts.rounds()] == [record.federated for record in whole.rounds()]
    assert len(set(digests(whole))) == 3


ABLATIONS: dict[str, tuple[str, ...]] = {
    "sfprompt": (),
    "no training alone": ("split.local_epochs=0",),
    "no pruning": ("split.keep=1.0",),
    "no prompts": ("split.prompt_tokens=0",),
    "training alone only": ("training.steps=0",),
    "splitfed": ("split.local_epochs=0", "split.keep=1.0", "split.prompt_tokens=0"),
    "splitfed with its head": (
        "split.local_epochs=0",
        "split.keep=1.0",
        "split.prompt_tokens=0",
        "split.train_head=true",
    ),
    "scaffold": ("split.local_epochs=0", "training.scaffold=true", "training.epochs=2"),
    "ranks": ('method=""', "adapter.rank=3", "split.head_layers=1", 'federation.ranks=["*1=1"]'),
    "splitfed with its body": (
        "split.local_epochs=0",
        "split.keep=1.0",
        "split.prompt_tokens=0",
        "split.train_head=true",
        'split.body="full"',
    ),
    "linear probe": ("split.local_epochs=0", "split.keep=1.0", "split.prompt_tokens=0", "split.tail_layers=0"),
}


def test_each_ablation_is_a_recipe_and_trains_something_else(images: Path, tmp_path: Path) -> None:
    found = {}
    for name, lines in ABLATIONS.items():
        place = f'run.name="{name.replace(" ", "-")}"'
        folder = run(pictures(images, tmp_path, *lines, place, "federation.rounds=1", "federation.evaluate_every=0"))
        found[name] = digests(folder)[-1]
    assert len(set(found.values())) == len(ABLATIONS)


def test_an_update_without_its_body_is_left_out_by_name(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[bool] = []

    def forgets(body: LocalBody, factor: float, *, last: bool) -> None:
        said.append(last)
        step(body, factor, last=last and sum(said) != 2)

    step = LocalBody.step
    monkeypatch.setattr(LocalBody, "step", forgets)
    lines = ('split.body="full"', "split.prompt_tokens=0", "federation.rounds=1", 'data.partition.scheme="iid"')
    last = RunFolder.open(simulate(pictures(images, tmp_path, *lines))).rounds()[-1]
    assert sorted(client.outcome for client in last.clients) == ["missing-body", "ok", "ok"]
    assert last.aggregated


def test_fifty_clients_share_one_body(images: Path, tmp_path: Path) -> None:
    lines = ("data.partition.clients=50", "federation.rounds=1", "data.test_fraction=0.1", "training.batch_size=1")
    recipe = pictures(images, tmp_path, *lines)
    before = body_model(run(pictures(images, tmp_path, "training.steps=0", 'run.name="one"')).recipe)
    folder = run(recipe)
    assert len(folder.rounds()[-1].clients) == 50
    assert body_model(folder.recipe) is before


def test_held_out_rows_are_scored_by_their_clients_through_the_body(images: Path, tmp_path: Path) -> None:
    lines = ("data.holdout_fraction=0.25", "data.test_fraction=0.0", "federation.rounds=1")
    noise = ("split.prompt_tokens=0", "split.keep=1", "split.noise_multiplier=50", "split.delta=1e-5")
    folder = run(pictures(images, tmp_path, *lines, *noise))
    record = folder.rounds()[-1]
    assert record.federated is not None
    assert record.federated.examples == 15
    release = release_of(folder.recipe)
    assert release is not None
    assert release.held_out == 2
    assert folder.info.facts["promise"] == said(release)


def test_whole_models_are_fine_tuned_too(tiny_bert_folder: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 60)
    recipe = tiny_recipe(tiny_bert_folder, rows, tmp_path, adapter=FULL, training={"epochs": 3, "lr": 0.003})
    folder = run(recipe)
    home = Resident.build(folder.recipe)
    assert folder.info.facts["trainable parameters"] == sum(p.numel() for p in home.loaded.model.parameters())
    home.attached.load(folder.checkpoints.load("latest").state)
    merged = export(folder, tmp_path / "merged", checkpoint="latest", format_="merged").path
    tokens = {"input_ids": torch.tensor([[2, 7, 9, 5, 3]]), "attention_mask": torch.ones(1, 5).long()}
    with torch.no_grad():
        found = AutoModelForSequenceClassification.from_pretrained(merged).eval()(**tokens).logits
        assert (found - home.attached.model(**tokens).logits).abs().max() <= 1e-5
    assert len(set(digests(folder))) == 4
