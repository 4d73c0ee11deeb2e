"""Loading: frozen, quiet, offline, and with a head that depends on the seed alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertModel

from fedtune.errors import ModelError
from fedtune.models import ImageTransform, load_model
from fedtune.models.base import LoadedModel
from fedtune.recipe import ModelSection
from tests.factories import tiny_bert

CPU = torch.device("cpu")
LABELS = ("negative", "positive")


def load(folder: Path, task: Any = "sequence-classification", *, seed: int = 0, **fields: Any) -> LoadedModel:
    if task != "causal-lm":
        fields.setdefault("labels", LABELS)
    return load_model(ModelSection(name=str(folder), task=task, **fields), device=CPU, seed=seed)


@pytest.fixture
def bert_copy(tiny_bert_folder: Path, tmp_path: Path) -> Path:
    """A tiny BERT of this test's own, to damage."""
    return shutil.copytree(tiny_bert_folder, tmp_path / "model")


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


class TestEveryModel:
    def test_is_frozen_in_eval_mode_and_fp32(self, tiny_bert_folder: Path) -> None:
        model = load(tiny_bert_folder).model
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert not any(module.training for module in model.modules())
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}

    def test_keeps_the_folders_weights(self, tiny_bert_folder: Path) -> None:
        on_disk = load_file(tiny_bert_folder / "model.safetensors")
        in_memory = load(tiny_bert_folder).model.bert.state_dict()
        assert on_disk.keys() == in_memory.keys()
        assert all(torch.equal(on_disk[name], in_memory[name]) for name in on_disk)

    def test_is_loaded_without_a_word(self, tiny_bert_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        load(tiny_bert_folder)
        assert capfd.readouterr() == ("", "")

    def test_leaves_the_global_random_state_alone(self, tiny_bert_folder: Path) -> None:
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        load(tiny_bert_folder)
        assert torch.equal(torch.rand(3), expected)


class TestHead:
    def test_depends_on_the_seed_and_on_nothing_else(self, tiny_bert_folder: Path) -> None:
        first = load(tiny_bert_folder, seed=1).model.classifier.weight
        torch.manual_seed(99)
        assert torch.equal(load(tiny_bert_folder, seed=1).model.classifier.weight, first)
        assert not torch.equal(load(tiny_bert_folder, seed=2).model.classifier.weight, first)

    def test_starts_with_the_spread_of_the_config_and_no_bias(self, tiny_bert_folder: Path) -> None:
        labels = tuple(str(i) for i in range(200))
        head = load(tiny_bert_folder, labels=labels).model.classifier
        assert head.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert head.bias.abs().max().item() == 0

    @pytest.mark.parametrize(
        ("folder", "task", "head"),
        [
            ("tiny_bert_folder", "sequence-classification", ("classifier",)),
            ("tiny_llama_folder", "sequence-classification", ("score",)),
            ("tiny_gpt2_folder", "sequence-classification", ("score",)),
            ("tiny_vit_folder", "image-classification", ("classifier",)),
            ("tiny_llama_folder", "causal-lm", ()),
            ("tiny_gpt2_folder", "causal-lm", ()),
        ],
    )
    def test_is_found_in_every_family(
        self, folder: str, task: str, head: tuple[str, ...], request: pytest.FixtureRequest
    ) -> None:
        assert load(request.getfixturevalue(folder), task, image_size=16).head == head

    def test_names_the_labels_in_order(self, tiny_bert_folder: Path) -> None:
        config = load(tiny_bert_folder, labels=("ham", "spam", "unsure")).model.config
        assert config.id2label == {0: "ham", 1: "spam", 2: "unsure"}
        assert config.label2id == {"ham": 0, "spam": 1, "unsure": 2}

    def test_that_was_trained_is_kept_with_its_labels(self, tiny_bert_folder: Path, tmp_path: Path) -> None:
        trained = load(tiny_bert_folder, labels=("ham", "spam")).model
        trained.classifier.weight.fill_(0.5)
        trained.save_pretrained(tmp_path)
        shutil.copy(tiny_bert_folder / "tokenizer.json", tmp_path)
        shutil.copy(tiny_bert_folder / "tokenizer_config.json", tmp_path)
        again = load(tmp_path, labels=(), seed=9).model
        assert again.config.id2label == {0: "ham", 1: "spam"}
        assert again.classifier.weight.eq(0.5).all()

    def test_of_another_width_is_drawn_anew(self, tiny_bert_folder: Path, tmp_path: Path) -> None:
        AutoModelForSequenceClassification.from_pretrained(tiny_bert_folder, num_labels=5).save_pretrained(tmp_path)
        shutil.copy(tiny_bert_folder / "tokenizer.json", tmp_path)
        expected = load(tiny_bert_folder, seed=4).model.classifier.weight
        assert torch.equal(load(tmp_path, seed=4).model.classifier.weight, expected)

    def test_takes_in_a_pooler_that_the_checkpoint_lacks(self, tiny_bert_folder: Path, bert_copy: Path) -> None:
        BertModel.from_pretrained(tiny_bert_folder, add_pooling_layer=False).save_pretrained(bert_copy)
        loaded = load(bert_copy, seed=4)
        assert loaded.head == ("bert.pooler", "classifier")
        assert torch.equal(
            loaded.model.bert.pooler.dense.weight, load(bert_copy, seed=4).model.bert.pooler.dense.weight
        )

    @pytest.mark.parametrize("labels", [(), ("only",), ("same", "same")])
    def test_without_two_different_labels_is_refused(self, labels: tuple[str, ...], tiny_bert_folder: Path) -> None:
        with pytest.raises(ModelError, match=r"model\.labels must name two or more different classes"):
            load(tiny_bert_folder, labels=labels)


class TestProcessor:
    def test_of_a_language_model_without_pad_token_pads_with_its_end_token(self, tiny_gpt2_folder: Path) -> None:
        loaded = load(tiny_gpt2_folder, "causal-lm")
        batch = loaded.processor(["a film", "a truly good film"], padding=True, return_tensors="pt")
        assert loaded.processor.pad_token == "<|end|>"
        assert batch["attention_mask"][0, 0] == 1
        assert batch["attention_mask"][0, -1] == 0
        assert loaded.model.config.pad_token_id == loaded.processor.pad_token_id

    def test_lets_a_decoder_classify_padded_batches(self, tiny_llama_folder: Path) -> None:
        loaded = load(tiny_llama_folder)
        texts = ["bad", "a truly good film with a warm heart"]
        together = loaded.model(**loaded.processor(texts, padding=True, return_tensors="pt")).logits
        alone = loaded.model(**loaded.processor(texts[:1], return_tensors="pt")).logits
        torch.testing.assert_close(together[:1], alone)

    def test_of_an_image_model_is_a_transform_of_the_recipes_size(self, tiny_vit_folder: Path) -> None:
        loaded = load(tiny_vit_folder, "image-classification", image_size=16)
        assert loaded.processor == ImageTransform(16)

    def test_uses_the_normalisation_that_the_model_was_trained_with(
        self, tiny_vit_folder: Path, tmp_path: Path
    ) -> None:
        folder = shutil.copytree(tiny_vit_folder, tmp_path / "vit")
        (folder / "preprocessor_config.json").write_text(
            '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
        )
        transform = load(folder, "image-classification", image_size=16).processor
        assert transform == ImageTransform(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class TestBadFolder:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="There is no model folder"):
            load(tmp_path / "nowhere")

    def test_without_config(self, bert_copy: Path) -> None:
        (bert_copy / "config.json").unlink()
        with pytest.raises(ModelError, match=r"holds no config\.json"):
            load(bert_copy)

    def test_that_is_an_adapter(self, bert_copy: Path) -> None:
        (bert_copy / "config.json").rename(bert_copy / "adapter_config.json")
        with pytest.raises(ModelError, match="it is an adapter; name its base model"):
            load(bert_copy)

    @pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "no-such-model"}', "{}"])
    def test_with_a_config_that_is_none(self, text: str, bert_copy: Path) -> None:
        (bert_copy / "config.json").write_text(text)
        with pytest.raises(ModelError, match="cannot be read"):
            load(bert_copy)

    def test_with_pickled_weights_is_never_opened(self, bert_copy: Path) -> None:
        torch.save(load_file(bert_copy / "model.safetensors"), bert_copy / "pytorch_model.bin")
        (bert_copy / "model.safetensors").unlink()
        with pytest.raises(ModelError, match="can run code and are never opened"):
            load(bert_copy)

    def test_that_wants_to_run_its_own_code(self, bert_copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
        auto = {"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model"}
        rewrite(bert_copy / "config.json", lambda fields: fields.update(auto_map=auto, model_type="evil"))
        (bert_copy / "evil.py").write_text("print('evil code ran')")
        with pytest.raises(ModelError, match="cannot be read"):
            load(bert_copy)
        assert "evil code ran" not in capfd.readouterr().out

    @pytest.mark.parametrize("keep", [0, 4, 100, 5000])
    def test_with_weights_cut_short(self, keep: int, bert_copy: Path) -> None:
        weights = bert_copy / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:keep])
        with pytest.raises(ModelError, match="files are damaged"):
            load(bert_copy)

    def test_with_a_base_weight_missing_is_not_filled_with_random_numbers(self, bert_copy: Path) -> None:
        tensors = load_file(bert_copy / "model.safetensors")
        del tensors["encoder.layer.1.attention.self.query.weight"]
        save_file(tensors, bert_copy / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=r"lacks 1 weights .*layer\.1\.attention\.self\.query\.weight"):
            load(bert_copy)

    def test_with_a_base_weight_of_another_shape_is_refused(self, bert_copy: Path) -> None:
        rewrite(bert_copy / "config.json", lambda fields: fields.update(intermediate_size=48))
        with pytest.raises(ModelError, match="lacks"):
            load(bert_copy)

    def test_without_tokenizer(self, bert_copy: Path) -> None:
        for path in bert_copy.glob("tokenizer*"):
            path.unlink()
        with pytest.raises(ModelError, match="holds no tokenizer"):
            load(bert_copy)

    def test_with_a_damaged_tokenizer(self, bert_copy: Path) -> None:
        (bert_copy / "tokenizer.json").write_text('{"model": ')
        with pytest.raises(ModelError, match=r"tokenizer in .* cannot be read"):
            load(bert_copy)


class TestWrongTask:
    def test_names_what_the_model_can_do(self, tiny_vit_folder: Path, tiny_bert_folder: Path) -> None:
        with pytest.raises(ModelError, match=r"is a vit model, .*causal-lm: it can do image-classification\."):
            load(tiny_vit_folder, "causal-lm")
        with pytest.raises(ModelError, match="is a bert model, which cannot do image-classification"):
            load(tiny_bert_folder, "image-classification")

    def test_an_encoder_is_no_language_model(self, tiny_bert_folder: Path) -> None:
        with pytest.raises(ModelError, match="which cannot do causal-lm"):
            load(tiny_bert_folder, "causal-lm")

    def test_longer_texts_than_the_model_has_positions_for(self, tiny_bert_folder: Path) -> None:
        with pytest.raises(ModelError, match=r"reads at most 128 tokens.*max_length = 129"):
            load(tiny_bert_folder, max_length=129)

    def test_another_image_size_than_the_model_has_positions_for(self, tiny_vit_folder: Path) -> None:
        with pytest.raises(ModelError, match=r"images of 20 pixels: set model\.image_size = 16"):
            load(tiny_vit_folder, "image-classification", image_size=20)


class TestNf4:
    def test_on_a_cpu_says_where_it_runs(self, tiny_llama_folder: Path) -> None:
        with pytest.raises(ModelError, match='needs a CUDA GPU, and this run uses cpu: set quantization = "none"'):
            load(tiny_llama_folder, "causal-lm", quantization="nf4")


def test_two_seeds_make_two_tiny_models(tmp_path: Path) -> None:
    first, second = load(tiny_bert(tmp_path / "a", seed=0)), load(tiny_bert(tmp_path / "b", seed=1))
    assert first.fingerprint != second.fingerprint
