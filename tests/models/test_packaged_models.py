"""The packaged models know what they were trained on: converted weights are right, not only complete."""

import codecs
import contextlib
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedtune.catalogue import fetch, find
from fedtune.catalogue.fetching import fetch_entry
from fedtune.models import load_model
from fedtune.models.base import LoadedModel
from fedtune.recipe import ModelSection
from fedtune.recipe.model import Task

pytestmark = pytest.mark.models
CPU = torch.device("cpu")


def fetched(name: str, task: Task, **fields: Any) -> LoadedModel:
    fetch(name, "model")
    return load_model(ModelSection(name=name, task=task, **fields), device=CPU, seed=0)


@torch.no_grad()
def test_minilm_puts_paraphrases_close_together() -> None:
    """Cosines of mean-pooled states, as the sentence encoder was trained: paraphrases far above unrelated pairs."""
    loaded = fetched("minilm", "sequence-classification", labels=("a", "b"))
    texts = [
        "A man is playing a guitar on stage.",
        "Someone performs guitar music in front of people.",
        "The cat sleeps on the warm sofa.",
        "A kitten is dozing on the couch.",
    ]
    batch = loaded.processor(texts, padding=True, return_tensors="pt")
    states = loaded.model.bert(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > 0.55
    assert cosines[2, 3] > 0.55
    assert cosines[:2, 2:].max() < 0.15
    assert sum(p.numel() for p in loaded.model.bert.parameters()) == 22_713_216


class TestSmolLm:
    @pytest.fixture(scope="class")
    def loaded(self) -> LoadedModel:
        return fetched("smollm2-135m", "causal-lm", max_length=512)

    @torch.no_grad()
    def test_knows_the_capital_of_france(self, loaded: LoadedModel) -> None:
        prompt = loaded.processor("The capital of France is", return_tensors="pt")
        assert loaded.processor.decode(loaded.model(**prompt).logits[0, -1].argmax()) == " Paris"

    @torch.no_grad()
    def test_finds_prose_far_likelier_than_the_same_words_shuffled(self, loaded: LoadedModel) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            import this
        words = codecs.decode(this.s, "rot13").split()
        shuffled = [words[i] for i in np.random.default_rng(0).permutation(len(words))]
        prose, noise = (self.perplexity(loaded, " ".join(text)) for text in (words, shuffled))
        assert prose < 40
        assert noise > 10 * prose

    def test_ties_its_head_to_its_embedding_and_has_its_full_size(self, loaded: LoadedModel) -> None:
        model = loaded.model
        assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
        assert sum(p.numel() for p in model.parameters()) == 134_515_008

    def test_tokenizer_returns_any_text_unchanged_and_knows_its_chat_format(self, loaded: LoadedModel) -> None:
        tokenizer = loaded.processor
        text = "Grüße, 東京 🚀\n\tx = 3.14"
        assert tokenizer.decode(tokenizer(text).input_ids) == text
        assert tokenizer.pad_token_id is not None
        chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
        assert "<|im_start|>user\nHi<|im_end|>" in chat

    @staticmethod
    def perplexity(loaded: LoadedModel, text: str) -> float:
        ids = loaded.processor(text, return_tensors="pt").input_ids
        return float(loaded.model(input_ids=ids, labels=ids).loss.exp())


class TestDinov2:
    @torch.no_grad()
    def test_computes_what_the_original_onnx_graph_computes(self) -> None:
        """ONNX's own reference evaluator runs the untouched file up to the backbone's last norm, at 224 x 224."""
        onnx = pytest.importorskip("onnx")
        from onnx.reference import ReferenceEvaluator

        keep = {"name": "dinov2-onnx", "convert": "tests.models.keep_onnx:convert", "converted_bytes": 98_000_000}
        graph = onnx.load(str(fetch_entry(replace(find("dinov2-small"), **keep)) / "original.onnx"))
        truncate(graph.graph, "/backbone/layernorm/")
        pixels = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
        (expected,) = ReferenceEvaluator(graph).run(None, {"input_image": pixels})

        loaded = fetched("dinov2-small", "image-classification", labels=("a", "b"), image_size=224)
        got = loaded.model.dinov2(torch.from_numpy(pixels)).last_hidden_state.numpy()
        assert np.abs(expected).mean() > 1
        assert np.abs(got - expected).max() < 1e-4

    @torch.no_grad()
    def test_features_tell_digits_apart(self) -> None:
        """Nearest neighbour among 200 MNIST digits at 84 x 84: about 61 %, where random weights reach 29 %."""
        from PIL import Image
        from pyarrow import parquet

        rows = parquet.read_table(fetch("mnist-5k", "data") / "rows.parquet").to_pylist()
        rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:280]]
        labels = np.array([row["label"] for row in rows])
        loaded = fetched("dinov2-small", "image-classification", labels=("a", "b"), image_size=84)
        images = [Image.open(io.BytesIO(row["image"]["bytes"])) for row in rows]
        batch = torch.stack([loaded.processor(image) for image in images])
        features = torch.nn.functional.normalize(loaded.model.dinov2(batch).pooler_output, dim=-1)
        nearest = (features[200:] @ features[:200].T).argmax(dim=1).numpy()
        assert (labels[:200][nearest] == labels[200:]).mean() > 0.5


def truncate(graph: Any, prefix: str) -> None:
    """Cut an ONNX graph behind the last node whose name starts with `prefix`, whose output it then has."""
    from onnx import TensorProto, helper

    last = max(i for i, node in enumerate(graph.node) if node.name.startswith(prefix))
    kept = list(graph.node)[: last + 1]
    del graph.node[:], graph.output[:]
    graph.node.extend(kept)
    graph.output.append(helper.make_tensor_value_info(kept[-1].output[0], TensorProto.FLOAT, None))
