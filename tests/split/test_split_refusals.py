"""What cannot be loaded in parts, and what is said of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from fedtune.errors import ModelError
from fedtune.recipe.split import SplitSection
from fedtune.split.cut import layer_number
from tests.split.split_models import CUTS, body_of, client_of, folder, make, rewrite, section


class TestRefusals:
    def test_of_a_cut_beyond_the_layers(self) -> None:
        for part in (client_of, body_of):
            with pytest.raises(ModelError, match=r"has 4 layers.*at most 3"):
                part(section("bert"), SplitSection(head_layers=3, tail_layers=1))

    def test_of_another_architecture(self, tmp_path: Path) -> None:
        config = transformers.OPTConfig(
            vocab_size=20, hidden_size=8, num_hidden_layers=3, ffn_dim=8, num_attention_heads=1
        )
        transformers.OPTForCausalLM(config).save_pretrained(tmp_path)
        for part in (client_of, body_of):
            with pytest.raises(ModelError, match="opt model cannot be split"):
                part(section("llama", tmp_path))

    def test_of_another_task(self) -> None:
        model = section("bert", folder("llama"))
        with pytest.raises(ModelError, match="llama model can be split for causal-lm alone"):
            client_of(model)

    def test_of_a_quantised_base(self) -> None:
        with pytest.raises(ModelError, match=r'model\.quantization = "none"'):
            body_of(section("llama").model_copy(update={"quantization": "nf4"}))

    def test_of_a_prompt_that_leaves_too_few_positions_to_the_text(self) -> None:
        model = section("gpt2").model_copy(update={"max_length": 70})
        client_of(model, CUTS.model_copy(update={"prompt_tokens": 10}))
        for part in (client_of, body_of):
            with pytest.raises(ModelError, match="max_length = 70 must become 69 or less"):
                part(model, CUTS.model_copy(update={"prompt_tokens": 11}))

    def test_of_images_of_another_size(self) -> None:
        with pytest.raises(ModelError, match="cannot read images of 32 pixels"):
            client_of(section("vit").model_copy(update={"image_size": 32}))

    @pytest.mark.parametrize(("layer", "refuses", "loads"), [(2, body_of, client_of), (3, client_of, body_of)])
    def test_of_missing_tensors_come_from_the_part_that_lacks_them(
        self, layer: int, refuses: Callable[..., Any], loads: Callable[..., Any], tmp_path: Path
    ) -> None:
        path = make(tmp_path, "bert")
        rewrite(path, lambda name: layer_number(name) != layer or "query" not in name)
        with pytest.raises(ModelError, match="lacks 2 weights"):
            refuses(section("bert", path))
        loads(section("bert", path))

    @pytest.mark.parametrize("part", [client_of, body_of])
    def test_of_damaged_files(self, part: Callable[..., Any], tmp_path: Path) -> None:
        path = make(tmp_path, "gpt2") / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-64])
        with pytest.raises(ModelError, match="damaged"):
            part(section("gpt2", tmp_path))

    @pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": [1]}', '{"weight_map": {"h.1.x": "none"}}'])
    def test_of_a_damaged_index(self, text: str, tmp_path: Path) -> None:
        path = make(tmp_path, "gpt2")
        (path / "model.safetensors").rename(path / "model-00001-of-00001.safetensors")
        (path / "model.safetensors.index.json").write_text(text)
        for part in (client_of, body_of):
            with pytest.raises(ModelError, match="damaged"):
                part(section("gpt2", path))
