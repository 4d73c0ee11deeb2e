"""Where a model is cut, by number and by name, and what cannot be cut."""

import re

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from fedtune.errors import ModelError
from fedtune.recipe.split import SplitSection
from fedtune.split.cut import Cut, cut_of, layer_number, renumbered, shortened, whole_name
from fedtune.split.family import FAMILIES, check_split_task, family_of

CUTS = st.builds(Cut, st.integers(0, 9), st.integers(1, 9), st.integers(0, 9))


def config(layers: int) -> transformers.PretrainedConfig:
    return transformers.BertConfig(num_hidden_layers=layers)


class TestCut:
    def test_leaves_the_rest_of_the_layers_to_the_body(self) -> None:
        assert cut_of(SplitSection(head_layers=2, tail_layers=3), config(12)) == Cut(2, 7, 3)

    @given(CUTS)
    def test_gives_every_layer_to_one_part(self, cut: Cut) -> None:
        assert sorted((*cut.client_layers(), *cut.body_layers())) == list(range(cut.whole))
        assert len(cut.client_layers()) == cut.client
        assert cut_of(SplitSection(head_layers=cut.head, tail_layers=cut.tail), config(cut.whole)) == cut

    @pytest.mark.parametrize(("head", "tail"), [(11, 1), (0, 12), (40, 0)])
    def test_refuses_a_body_without_layers(self, head: int, tail: int) -> None:
        with pytest.raises(ModelError, match=r"has 12 layers.*at most 11"):
            cut_of(SplitSection(head_layers=head, tail_layers=tail), config(12))

    def test_is_not_there_in_a_recipe_that_does_not_split(self) -> None:
        with pytest.raises(ModelError, match=r"split\.head_layers"):
            cut_of(SplitSection(), config(12))


class TestNames:
    @pytest.mark.parametrize(
        ("name", "layer"),
        [
            ("bert.encoder.layer.11.attention.self.query.weight", 11),
            ("encoder.layer.0.layer_scale1.lambda1", 0),
            ("model.layers.7.self_attn.q_proj.weight", 7),
            ("transformer.layer.3.ffn.lin1.bias", 3),
            ("transformer.h.2.attn.c_attn.weight", 2),
            ("h.10.ln_1.bias", 10),
            ("model.embed_tokens.weight", None),
            ("embeddings.LayerNorm.weight", None),
            ("player.3.weight", None),
            ("lm_head.weight", None),
        ],
    )
    def test_say_the_layer(self, name: str, layer: int | None) -> None:
        assert layer_number(name) == layer

    @given(CUTS, st.data())
    def test_of_the_client_part_lead_back_to_the_whole(self, cut: Cut, data: st.DataObject) -> None:
        layer = data.draw(st.sampled_from(range(cut.whole)))
        name = f"bert.encoder.layer.{layer}.output.dense.weight"
        here = renumbered(name, {old: new for new, old in enumerate(cut.client_layers())})
        assert (here is None) == (layer in cut.body_layers())
        assert here is None or whole_name(here, cut) == name

    def test_of_modules_lead_back_too(self) -> None:
        assert whole_name("model.layers.1", Cut(1, 4, 2)) == "model.layers.5"
        assert whole_name("classifier", Cut(1, 4, 2)) == "classifier"
        with pytest.raises(ModelError, match="keeps 3 layers"):
            whole_name("model.layers.3", Cut(1, 4, 2))


def test_a_shortened_config_is_a_copy_with_the_kinds_of_its_own_layers() -> None:
    qwen = transformers.Qwen2Config(num_hidden_layers=4, use_sliding_window=True, sliding_window=8, max_window_layers=2)
    short = shortened(qwen, (0, 3))
    assert short.num_hidden_layers == 2
    assert short.layer_types == ["full_attention", "sliding_attention"]
    assert qwen.num_hidden_layers == 4


class TestFamily:
    def test_is_told_by_the_config(self) -> None:
        assert family_of(transformers.GPT2Config()) is FAMILIES["gpt2"]

    def test_that_is_unknown_is_refused_with_a_list_of_the_known(self) -> None:
        with pytest.raises(ModelError, match=f"t5 model cannot be split.*{re.escape(', '.join(FAMILIES))}"):
            family_of(transformers.T5Config())

    @pytest.mark.parametrize(
        "config",
        [
            transformers.Qwen2Config(
                num_hidden_layers=4, use_sliding_window=True, sliding_window=8, max_window_layers=2
            ),
            transformers.Qwen3Config(
                num_hidden_layers=4, use_sliding_window=True, sliding_window=8, max_window_layers=2
            ),
            transformers.GPT2Config(scale_attn_by_inverse_layer_idx=True),
        ],
        ids=["sliding windows", "qwen3's sliding windows", "scaled by number"],
    )
    def test_whose_layers_depend_on_their_number_is_refused(self, config: transformers.PretrainedConfig) -> None:
        with pytest.raises(ModelError, match="depends on their number"):
            family_of(config)

    def test_whose_tokens_read_a_window_is_refused(self) -> None:
        assert family_of(transformers.MistralConfig(sliding_window=None)) is FAMILIES["mistral"]
        with pytest.raises(ModelError, match="reads the last 4096 alone"):
            family_of(transformers.MistralConfig())

    def test_does_one_task(self) -> None:
        check_split_task("causal-lm", FAMILIES["llama"])
        with pytest.raises(ModelError, match="llama model can be split for causal-lm alone"):
            check_split_task("sequence-classification", FAMILIES["llama"])
