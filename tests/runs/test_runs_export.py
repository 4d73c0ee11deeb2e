"""Export: what a run learned, loaded back by PEFT and transformers themselves."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, AutoTokenizer

from fedtune.cli.export import export as export_command
from fedtune.errors import AdapterError, RunError
from fedtune.recipe import AdapterSection, ModelSection, Recipe, RunSection
from fedtune.runs.checkpoint import Checkpoint
from fedtune.runs.export import export
from fedtune.runs.folder import RunFolder
from fedtune.training.resident import Resident

TOKENS = {"input_ids": torch.tensor([[2, 7, 9, 5, 3]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}


def trained_run(
    root: Path, model: ModelSection, inputs: dict[str, torch.Tensor], **adapter: object
) -> tuple[Path, list[torch.Tensor]]:
    """A run with three random states, the second the best; returns its path and each state's logits."""
    recipe = Recipe(
        model=model,
        adapter=AdapterSection(**({"kind": "square", "rank": 4} | adapter)),
        run=RunSection(folder=str(root), keep_checkpoints=3),
    )
    home = Resident.build(recipe)
    logits = []
    with RunFolder.create(recipe) as folder:
        folder.describe(model_fingerprint=home.loaded.fingerprint)
        for round_ in range(3):
            dice = torch.Generator().manual_seed(round_)
            state = {
                name: value + 0.3 * torch.randn(value.shape, generator=dice) for name, value in home.initial.items()
            }
            home.attached.load(state)
            with torch.no_grad():
                logits.append(home.attached.model(**inputs).logits)
            folder.checkpoints.save(Checkpoint(round_, state, home.attached.shared(), best=round_ == 1))
        folder.end("finished")
    return folder.path, logits


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Path) -> tuple[Path, list[torch.Tensor]]:
    model = ModelSection(name=str(tiny_bert_folder), labels=("bad", "good"), max_length=32)
    return trained_run(tmp_path_factory.mktemp("runs"), model, TOKENS)


def base_model(path: Path) -> torch.nn.Module:
    name = RunFolder.open(path).recipe.model.name
    return AutoModelForSequenceClassification.from_pretrained(name, num_labels=2)


def logits_of(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**inputs).logits


@pytest.mark.parametrize(("which", "round_"), [("", 1), ("best", 1), ("latest", 2), ("0", 0)])
def test_peft_loads_the_chosen_checkpoint(
    text_run: tuple[Path, list[torch.Tensor]], tmp_path: Path, which: str, round_: int
) -> None:
    path, logits = text_run
    done = export(RunFolder.open(path), tmp_path / "adapter", checkpoint=which)
    assert done.round == round_
    loaded = PeftModel.from_pretrained(base_model(path), str(done.path))
    assert (logits_of(loaded, TOKENS) - logits[round_]).abs().max() <= 1e-5


def test_the_merged_model_loads_alone_with_its_tokenizer_and_labels(
    text_run: tuple[Path, list[torch.Tensor]], tmp_path: Path
) -> None:
    path, logits = text_run
    done = export(RunFolder.open(path), tmp_path / "model", format_="merged")
    model = AutoModelForSequenceClassification.from_pretrained(done.path)
    assert (logits_of(model, TOKENS) - logits[1]).abs().max() <= 1e-5
    assert model.config.id2label == {0: "bad", 1: "good"}
    assert AutoTokenizer.from_pretrained(done.path)("a good film")["input_ids"]


def test_an_image_model_brings_its_image_settings(tmp_path: Path, tiny_vit_folder: Path) -> None:
    from PIL import Image
    from transformers import AutoImageProcessor

    model = ModelSection(name=str(tiny_vit_folder), task="image-classification", labels=("a", "b"), image_size=16)
    pixels = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    path, logits = trained_run(tmp_path / "runs", model, {"pixel_values": pixels})
    done = export(RunFolder.open(path), tmp_path / "model", format_="merged")
    merged = AutoModelForImageClassification.from_pretrained(done.path)
    assert (logits_of(merged, {"pixel_values": pixels}) - logits[1]).abs().max() <= 1e-5
    picture = Image.effect_noise((16, 16), 80).convert("RGB")
    theirs = AutoImageProcessor.from_pretrained(done.path)(picture, return_tensors="pt")["pixel_values"][0]
    ours = Resident.build(RunFolder.open(path).recipe).loaded.processor(picture)
    assert (theirs - ours).abs().max() <= 1e-5


def test_what_is_there_is_kept_unless_it_is_an_export_and_force_is_said(
    text_run: tuple[Path, list[torch.Tensor]], tmp_path: Path
) -> None:
    folder = RunFolder.open(text_run[0])
    export(folder, tmp_path / "adapter", checkpoint="0")
    before = (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()
    with pytest.raises(RunError, match="exists; choose another --to, or replace it by --force"):
        export(folder, tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes() == before
    export(folder, tmp_path / "adapter", force=True)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes() != before
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("mine")
    with pytest.raises(RunError, match="--force leaves it alone"):
        export(folder, tmp_path / "thesis", force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "thesis"]


def test_a_damaged_checkpoint_and_another_base_model_are_one_sentence(tmp_path: Path, tiny_bert_folder: Path) -> None:
    model = ModelSection(name=str(tiny_bert_folder), labels=("bad", "good"), max_length=32)
    path, _ = trained_run(tmp_path / "runs", model, TOKENS)
    with RunFolder.create(RunFolder.open(path).recipe, resume=True) as folder:
        folder.describe(model_fingerprint="0" * 32)
    with pytest.raises(RunError, match=r"is not the model that .* was trained on"):
        export(RunFolder.open(path), tmp_path / "adapter")
    state = path / "checkpoints" / "round-000001" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(RunError, match=r"round-000001 is damaged \(state.safetensors\)"):
        export(RunFolder.open(path), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("arguments", [[], ["--merged"]])
def test_the_lines_that_the_command_prints_load_the_export(
    text_run: tuple[Path, list[torch.Tensor]], tmp_path: Path, arguments: list[str]
) -> None:
    path, logits = text_run
    done = CliRunner().invoke(export_command, [str(path), "--to", str(tmp_path / "out"), *arguments])
    assert done.exit_code == 0, done.output
    lines = done.output.partition("\n\n")[2]
    names: dict[str, torch.nn.Module] = {}
    exec("\n".join(line.strip() for line in lines.splitlines()), names)  # noqa: S102 - that is the promise
    assert (logits_of(names["model"], TOKENS) - logits[1]).abs().max() <= 1e-5


ADAPTERS = {
    "lora": {"kind": "lora", "init": "kaiming"},
    "ffa": {"kind": "lora", "init": "kaiming", "freeze_a": True},
    "ravan": {"kind": "ravan", "init": "random", "heads": 2},
    "ia3": {"kind": "peft", "init": "random", "peft_type": "ia3"},
    "prompt": {"kind": "prompt", "init": "random", "prompt_tokens": 4},
    "prompts": {
        "kind": "peft",
        "init": "random",
        "peft_type": "prompt_tuning",
        "peft_options": ("num_virtual_tokens=4",),
    },
}
UNFOLDED = {"prompts": '"prompt_tuning" cannot be folded', "prompt": "no weight can take them up"}


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_kind_of_adapter_exports_from_its_run(tmp_path: Path, tiny_bert_folder: Path, name: str) -> None:
    model = ModelSection(name=str(tiny_bert_folder), labels=("bad", "good"), max_length=32)
    path, logits = trained_run(tmp_path / "runs", model, TOKENS, **ADAPTERS[name])
    done = export(RunFolder.open(path), tmp_path / "adapter", checkpoint="latest")
    loaded = PeftModel.from_pretrained(base_model(path), str(done.path))
    assert (logits_of(loaded, TOKENS) - logits[2]).abs().max() <= 1e-5
    if name in UNFOLDED:
        with pytest.raises(AdapterError, match=UNFOLDED[name]):
            export(RunFolder.open(path), tmp_path / "model", format_="merged")
        assert not (tmp_path / "model").exists()
        return
    export(RunFolder.open(path), tmp_path / "model", checkpoint="latest", format_="merged")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert (logits_of(merged, TOKENS) - logits[2]).abs().max() <= 1e-5
