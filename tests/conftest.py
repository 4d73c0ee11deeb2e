"""What all tests share: one thread, no network for model files, and tiny random models."""

import os
import signal
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="fedtune-state-")  # what test clients keep, not what people keep

from pathlib import Path

import hypothesis
import pytest
import torch

from tests.factories import tiny_bert, tiny_gpt2, tiny_llama, tiny_vit

torch.set_num_threads(1)
# A shell's background job inherits SIGINT ignored, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Deadlines measure the machine's load, not the code.
hypothesis.settings.register_profile("fedtune", deadline=None)
hypothesis.settings.load_profile("fedtune")


@pytest.fixture(scope="session")
def tiny_bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer BERT with a word-level tokenizer, as a Hugging Face folder."""
    return tiny_bert(tmp_path_factory.mktemp("tiny_bert"))


@pytest.fixture(scope="session")
def tiny_llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama with a byte-level tokenizer."""
    return tiny_llama(tmp_path_factory.mktemp("tiny_llama"))


@pytest.fixture(scope="session")
def tiny_gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer GPT-2: its projections are transformers' Conv1D."""
    return tiny_gpt2(tmp_path_factory.mktemp("tiny_gpt2"))


@pytest.fixture(scope="session")
def tiny_vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer ViT for images of 16 x 16."""
    return tiny_vit(tmp_path_factory.mktemp("tiny_vit"))
