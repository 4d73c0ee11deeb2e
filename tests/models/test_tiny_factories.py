"""The tiny models load as the families that they stand for."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageClassification, AutoTokenizer
from transformers.pytorch_utils import Conv1D

TEXT = "Ünïcode 123 \n and\ttabs"


def test_byte_level_tokenizers_return_any_text_unchanged(tiny_llama_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_folder)
    assert tokenizer.decode(tokenizer(TEXT).input_ids) == TEXT


def test_llama_and_gpt2_predict_over_their_tokenizers_vocabulary(
    tiny_llama_folder: Path, tiny_gpt2_folder: Path
) -> None:
    for folder in (tiny_llama_folder, tiny_gpt2_folder):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert model(torch.tensor([[0, 5, 7]])).logits.shape == (1, 3, len(tokenizer))


def test_gpt2_projects_with_conv1d(tiny_gpt2_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2_folder)
    assert isinstance(model.transformer.h[0].attn.c_attn, Conv1D)


def test_bert_marks_start_and_end(tiny_bert_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert_folder)
    ids = tokenizer("a good film xyzzy").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "a", "good", "film", "[UNK]", "[SEP]"]


def test_vit_classifies_small_images(tiny_vit_folder: Path) -> None:
    model = AutoModelForImageClassification.from_pretrained(tiny_vit_folder, num_labels=3)
    assert model(torch.zeros(2, 3, 16, 16)).logits.shape == (2, 3)
