"""Encoded rows: what the tokenizer says, the loss on the answer alone, padding, views that share."""

import dataclasses
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import ByT5Tokenizer

from fedtune.data.answers import fit, framed
from fedtune.data.encode import encode
from fedtune.data.images import open_image
from fedtune.data.rows import EncodedRows
from fedtune.data.store import ImageStore
from fedtune.errors import DataError
from fedtune.models.base import LoadedModel
from fedtune.recipe import ModelSection

Load = Callable[..., datasets.Dataset]
WORDS = ["a", "truly", "good", "film", "with", "warm", "heart", "bad", "dull", "and", "far", "too", "long", "nowhere"]
CHAT = "{% for m in messages %}<|start|>{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60).filter(lambda text: bool(text.strip()))
pairs = st.lists(st.tuples(texts, texts), min_size=1, max_size=6)
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def answers_table(rows: list[tuple[str, str]]) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"prompt": [p for p, _ in rows], "answer": [a for _, a in rows]})


def with_chat(loaded: LoadedModel) -> LoadedModel:
    tokenizer = loaded.processor.__class__(
        tokenizer_object=loaded.processor.backend_tokenizer, bos_token="<|start|>", eos_token="<|end|>"
    )
    tokenizer.chat_template = CHAT
    return dataclasses.replace(loaded, processor=tokenizer)


def encode_answers(loaded: LoadedModel, rows: list[tuple[str, str]], max_length: int) -> EncodedRows:
    section = ModelSection(name="any", task="causal-lm", max_length=max_length)
    return encode(answers_table(rows), loaded, section)


@quick
@given(rows=pairs, chat=st.booleans())
def test_the_loss_is_on_the_answer_and_its_end_alone(
    llama: LoadedModel, rows: list[tuple[str, str]], chat: bool
) -> None:
    """Where nothing is cut, what is read and what is learned decode to the prompt and to the answer."""
    loaded = with_chat(llama) if chat else llama
    batch = encode_answers(loaded, rows, 2000).batch(range(len(rows)))
    for (prompt, answer), ids, labels, mask in zip(
        rows, batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True
    ):
        learned = labels != -100
        assert loaded.processor.decode(ids[learned]) == answer.strip() + "<|end|>"
        read = ids[(mask == 1) & ~learned]
        assert loaded.processor.decode(read) == framed(prompt, loaded.processor)
        assert torch.equal(ids[learned], labels[learned])
        assert not learned[mask == 0].any()


@quick
@given(rows=pairs, max_length=st.integers(2, 90), order=st.randoms(use_true_random=False))
def test_rows_fit_and_are_padded_on_the_right(
    llama: LoadedModel, rows: list[tuple[str, str]], max_length: int, order: object
) -> None:
    encoded = encode_answers(llama, rows, max_length)
    indices = list(range(len(rows)))
    order.shuffle(indices)  # type: ignore[attr-defined]
    batch = encoded.batch(indices)
    assert batch["input_ids"].shape[1] == max(encoded.lengths) <= max_length
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    for position, index in enumerate(indices):
        length = int(encoded.lengths[index])
        assert batch["attention_mask"][position].tolist() == [1] * length + [0] * (len(batch["labels"][0]) - length)
        assert (batch["input_ids"][position, length:] == llama.processor.pad_token_id).all()
        alone = encoded.batch([index])
        for name, tensor in alone.items():
            assert torch.equal(tensor[0], batch[name][position, :length])


@quick
@given(rows=pairs, max_length=st.integers(2, 90))
def test_a_cut_row_keeps_the_beginning_of_its_answer(
    llama: LoadedModel, rows: list[tuple[str, str]], max_length: int
) -> None:
    whole, cut = encode_answers(llama, rows, 5000), encode_answers(llama, rows, max_length)
    assert cut.notes["cut"] == int((whole.lengths > max_length).sum())
    for index in range(len(rows)):
        full, short = whole.batch([index])["labels"][0], cut.batch([index])["labels"][0]
        full, short = full[full != -100], short[short != -100]
        assert 1 <= len(short) <= len(full)
        assert torch.equal(short, full[: len(short)])
        # The answer has the whole room, or at least half of it, or all of itself.
        assert len(short) >= min(len(full), max_length // 2)


@given(
    start=st.lists(st.just(-1), max_size=1),
    prompt=st.lists(st.integers(0, 99), min_size=1, max_size=40),
    answer=st.lists(st.integers(100, 199), min_size=1, max_size=40),
    max_length=st.integers(2, 90),
)
def test_fit_keeps_the_ends_that_meet(start: list[int], prompt: list[int], answer: list[int], max_length: int) -> None:
    pair = fit(start, prompt, answer, max_length)
    read, learned = pair.ids[: pair.answer_start], pair.ids[pair.answer_start :]
    assert len(pair.ids) == min(max_length, len(start) + len(prompt) + len(answer))
    assert learned == answer[: len(learned)]
    assert [i for i in read if i >= 0] == prompt[len(prompt) - sum(i >= 0 for i in read) :]
    assert read.count(-1) == (len(start) if len(read) > len(start) else 0)
    assert pair.cut == (len(start) + len(prompt) + len(answer) > max_length)


def test_a_model_without_chat_template_is_asked_plainly(llama: LoadedModel) -> None:
    batch = encode_answers(llama, [("What {is} this?", " a film ")], 500).batch([0])
    shown = llama.processor.decode(batch["input_ids"][0])
    assert shown == "### Instruction:\nWhat {is} this?\n\n### Answer:\na film<|end|>"


def test_padding_does_not_change_the_loss(llama: LoadedModel) -> None:
    """The model's own loss over a batch is the mean over the learned tokens of its rows, each alone."""
    rows = [("two plus two", "four"), ("the capital of france", "paris is the capital")]
    encoded = encode_answers(llama, rows, 64)
    with torch.no_grad():
        together = llama.model(**encoded.batch([0, 1])).loss.double()
        alone = [
            (llama.model(**b).loss.double(), int((b["labels"] != -100).sum())) for b in map(encoded.batch, ([0], [1]))
        ]
    expected = sum(loss * count for loss, count in alone) / sum(count for _, count in alone)
    assert together.item() == pytest.approx(expected.item(), rel=1e-5)


sentences = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=30).map(" ".join), min_size=1, max_size=6)


@quick
@given(rows=sentences)
def test_texts_are_encoded_as_the_tokenizer_does(bert: LoadedModel, rows: list[str]) -> None:
    """Ids, mask and cut are those of the tokenizer's own padding and truncation, row by row."""
    labels = ["positive" if len(text) % 2 else "negative" for text in rows]
    table = datasets.Dataset.from_dict({"text": rows, "label": labels})
    section = ModelSection(name="any", labels=("negative", "positive"), max_length=12)
    encoded = encode(table, bert, section)
    batch = encoded.batch(range(len(rows)))
    own = bert.processor(rows, padding=True, truncation=True, max_length=12, return_tensors="pt")
    assert torch.equal(batch["input_ids"], own["input_ids"])
    assert torch.equal(batch["attention_mask"], own["attention_mask"])
    assert batch["labels"].tolist() == [len(text) % 2 for text in rows]
    assert encoded.notes["cut"] == sum(len(text.split()) > 10 for text in rows)


def test_a_tokenizer_written_in_python_counts_its_cuts_too(bert: LoadedModel) -> None:
    """ByT5's: a byte a token and one to close."""
    loaded = dataclasses.replace(bert, processor=ByT5Tokenizer())
    table = datasets.Dataset.from_dict({"text": ["abc", "a" * 11, "a" * 12, "a" * 99], "label": ["a", "b"] * 2})
    encoded = encode(table, loaded, ModelSection(name="any", max_length=12))
    assert encoded.lengths.tolist() == [4, 12, 12, 12]
    assert encoded.notes["cut"] == 2


def texts_table(rows: int) -> datasets.Dataset:
    made = [" ".join(WORDS[(i + j) % len(WORDS)] for j in range(1 + i % 7)) for i in range(rows)]
    return datasets.Dataset.from_dict({"text": made, "label": ["ab"[i % 3 == 0] for i in range(rows)]})


def test_a_subset_of_a_subset_holds_the_same_rows(bert: LoadedModel) -> None:
    encoded = encode(texts_table(20), bert, ModelSection(name="any"))
    view = encoded.subset([3, 5, 8, 13]).subset([2, 0])
    assert len(view) == 2
    assert view.lengths.tolist() == encoded.lengths[[8, 3]].tolist()
    for name, tensor in view.batch([0, 1]).items():
        assert torch.equal(tensor, encoded.batch([8, 3])[name])
    assert encoded.label_counts() == {"a": 13, "b": 7}
    assert encoded.subset([0, 1, 2]).label_counts() == {"a": 2, "b": 1}
    assert encoded.notes == {"rows": 20, "cut": 0, "labels": {"a": 13, "b": 7}}


def test_a_thousand_clients_share_one_table(bert: LoadedModel) -> None:
    """10,000 rows and the views of 1,000 clients on them take under 2 MB together."""
    table = texts_table(10_000)
    tracemalloc.start()
    encoded = encode(table, bert, ModelSection(name="any"))
    views = [encoded.subset(range(i, 10_000, 1000)) for i in range(1000)]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(map(len, views)) == 10_000
    assert held < 2_000_000


def test_an_unknown_label_is_refused(bert: LoadedModel) -> None:
    with pytest.raises(DataError, match='has not: "b"'):
        encode(texts_table(4), bert, ModelSection(name="any", labels=("a", "c")))


def test_no_rows_are_no_error(bert: LoadedModel, llama: LoadedModel) -> None:
    assert len(encode(texts_table(4).select([]), bert, ModelSection(name="any", labels=("a", "b")))) == 0
    assert len(encode_answers(llama, [], 16)) == 0


@pytest.fixture
def pictures(tmp_path: Path, load: Load) -> datasets.Dataset:
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(3):
            pixels = np.random.default_rng([number, i]).integers(0, 255, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(("RGB", "L", "P")[i]).save(tmp_path / name / f"{i}.png")
    return load(tmp_path, task="image-classification")


def test_images_are_what_the_transform_makes_of_them(pictures: datasets.Dataset, vit: LoadedModel) -> None:
    section = ModelSection(name="any", task="image-classification", labels=("cat", "dog"), image_size=16)
    encoded = encode(pictures, vit, section)
    batch = encoded.batch([4, 0, 2])
    assert batch["labels"].tolist() == [1, 0, 0]
    assert batch["pixel_values"].shape == (3, 3, 16, 16)
    for position, row in enumerate((4, 0, 2)):
        with Image.open(pictures[row]["image"]["path"]) as image:
            assert torch.equal(batch["pixel_values"][position], vit.processor(image))
    with torch.no_grad():
        assert vit.model(**batch).logits.shape == (3, 2)


@pytest.mark.parametrize("rows_kept", [0, 2, 6])
def test_decoded_images_are_kept_within_bounds(rows_kept: int, pictures: datasets.Dataset, vit: LoadedModel) -> None:
    """However many are kept, batches are the same; what is kept is not read again."""
    cells = pictures["image"][:]
    room = rows_kept * 3 * 16 * 16 * 4
    rows = EncodedRows(ImageStore(cells, np.zeros(6, dtype=np.int64), vit.processor, max_decoded_bytes=room))
    first = rows.batch(range(6))["pixel_values"]
    assert torch.equal(first, rows.batch(range(6))["pixel_values"])
    for cell in cells:
        Path(cell["path"]).unlink()
    if rows_kept:
        assert torch.equal(rows.batch(range(rows_kept))["pixel_values"], first[:rows_kept])
    if rows_kept < 6:
        with pytest.raises(DataError, match="is not there"):
            rows.batch(range(6))


def test_an_opened_image_outlives_its_file(pictures: datasets.Dataset) -> None:
    cell = pictures[0]["image"]
    image = open_image(cell, 0)
    Path(cell["path"]).unlink()
    assert image.convert("RGB").size == (30, 20)
