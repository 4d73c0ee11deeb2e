"""What a converter does where it cannot work: a missing reader, or a package that does not hold a whole model."""

import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import BertModel

from fedtune.catalogue import find, names
from fedtune.errors import ModelError
from fedtune.models.packaged.complete import load_complete


@pytest.mark.parametrize(("name", "reader"), [("smollm2-135m", "gguf"), ("dinov2-small", "onnx")])
def test_a_missing_reader_names_the_extra_to_install(
    name: str, reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, reader, None)
    with pytest.raises(ModelError, match=rf"needs the {reader} package: pip install 'fedtune\[convert\]'"):
        find(name).converter()(tmp_path, tmp_path)


def test_a_missing_weight_fails_the_conversion(tiny_bert_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_bert_folder, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["of.another.model"] = tensors.pop("pooler.dense.bias")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"is incomplete \((missing keys: pooler|unexpected keys: of\.another)"):
        load_complete(BertModel, folder)


def test_a_whole_model_passes(tiny_bert_folder: Path) -> None:
    assert isinstance(load_complete(BertModel, tiny_bert_folder), BertModel)


def test_every_packaged_model_is_in_the_recipes_help() -> None:
    from fedtune.recipe import ModelSection

    described = ModelSection.model_fields["name"].description or ""
    assert all(name in described for name in names("model"))
