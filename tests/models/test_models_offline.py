"""A local model touches no network, even where the Hub is allowed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys

def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        print("network:", event, args, flush=True)

sys.addaudithook(watch)
import torch
from fedtune.models import load_model
from fedtune.recipe import ModelSection
for name, task in zip(sys.argv[1::2], sys.argv[2::2]):
    section = ModelSection(name=name, task=task, labels=("a", "b"), image_size=16)
    try:
        load_model(section, device=torch.device("cpu"), seed=0)
        print("loaded")
    except Exception as error:
        print(type(error).__name__, error)
"""


def load_in_a_process(*names_and_tasks: str, **environment: str) -> str:
    """What a fresh process prints that loads models and reports every use of the network."""
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *names_and_tasks],
        env=os.environ | {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.processes
def test_folders_are_loaded_without_the_network(
    tiny_bert_folder: Path, tiny_llama_folder: Path, tiny_vit_folder: Path
) -> None:
    text = str(tiny_bert_folder), "sequence-classification", str(tiny_llama_folder), "causal-lm"
    assert load_in_a_process(*text, str(tiny_vit_folder), "image-classification") == "loaded\n" * 3


@pytest.mark.processes
def test_a_hub_id_asks_the_hub_and_says_so_when_it_does_not_answer(tmp_path: Path) -> None:
    printed = load_in_a_process("someone/nothing", "causal-lm", HF_HOME=str(tmp_path))
    assert "network: socket.connect" in printed
    assert "ModelError No folder and no model of the catalogue is called 'someone/nothing'" in printed
