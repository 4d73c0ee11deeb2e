"""Models and sections that the data tests share."""

from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import torch

from fedtune.data.source import load_table
from fedtune.models.base import LoadedModel
from fedtune.models.load import load_model
from fedtune.recipe import DataSection, ModelSection

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty fedtune cache: no test sees what the machine has fetched."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FEDTUNE_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def bert(tiny_bert_folder: Path) -> LoadedModel:
    section = ModelSection(name=str(tiny_bert_folder), labels=("negative", "positive"), max_length=12)
    return load_model(section, device=CPU, seed=0)


@pytest.fixture(scope="session")
def llama(tiny_llama_folder: Path) -> LoadedModel:
    section = ModelSection(name=str(tiny_llama_folder), task="causal-lm", max_length=64)
    return load_model(section, device=CPU, seed=0)


@pytest.fixture(scope="session")
def vit(tiny_vit_folder: Path) -> LoadedModel:
    section = ModelSection(name=str(tiny_vit_folder), task="image-classification", labels=("cat", "dog"), image_size=16)
    return load_model(section, device=CPU, seed=0)


@pytest.fixture
def load() -> Callable[..., datasets.Dataset]:
    """`load(source, task=…, labels=…, seed=…, **data)`."""

    def loaded(
        source: Path | str,
        task: str = "sequence-classification",
        labels: tuple[str, ...] = (),
        seed: int = 0,
        **data: object,
    ) -> datasets.Dataset:
        model = ModelSection.model_validate({"name": "any", "task": task, "labels": labels})
        section = DataSection.model_validate({"source": str(source), **data})
        return load_table(section, model=model, seed=seed)

    return loaded
