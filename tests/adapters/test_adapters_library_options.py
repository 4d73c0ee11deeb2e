"""Which methods and settings of the peft library a recipe can name, and what is said of those that do not fit."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import IA3Config, LoHaConfig, PromptTuningConfig

from fedtune.adapters.attach import attach
from fedtune.adapters.library_config import UNFIT, config_class
from fedtune.adapters.library_options import parse_options, parse_value
from fedtune.errors import AdapterError
from fedtune.recipe import AdapterSection
from tests.adapters.adapter_models import attached_to, load

PROMPT = ("num_virtual_tokens=3",)


def make(folder, family, method, options):
    return attached_to(folder, family, kind="peft", init="random", peft_type=method, peft_options=options)


WRONG = [
    ("vara", (), {}, 'is no method of the installed peft library; did you mean "vera"?'),
    ("zzzz", (), {}, "is no method of the installed peft library. It has adamss"),
    ("", (), {}, "is no method of the installed peft library"),
    ("LoRA", (), {}, 'not among the methods to choose from: adapter.kind = "lora" is the same'),
    ("poly", (), {}, "the number of a task with every batch"),
    ("ia3", ("target_module=query",), {}, 'IA3Config has no setting "target_module"; did you mean "target_modules"?'),
    ("ia3", ("qqqqqq=1",), {}, '"qqqqqq"; it has "exclude_modules", "fan_in_fan_out", "feedforward_modules"'),
    ("ia3", ("target_modules",), {}, '"target_modules" is no setting; write "name=value"'),
    ("loha", ("r=4", "r=8"), {}, 'gives "r" twice'),
    ("ia3", ("task_type=SEQ_CLS",), {}, '"task_type" follows from the rest of the recipe'),
    ("ia3", ("modules_to_save=classifier",), {}, '"modules_to_save" follows from the rest of the recipe'),
    ("prompt_tuning", ("tokenizer_name_or_path=evil/code",), {}, '"tokenizer_name_or_path" reads files'),
    ("prompt_tuning", ('tokenizer_kwargs={"trust_remote_code": true}',), {}, '"tokenizer_kwargs" reads files'),
    ("prompt_tuning", (), {}, 'set adapter.peft_options = ["num_virtual_tokens=20"] or the like'),
    ("prompt_tuning", PROMPT, {"targets": "attention"}, 'means linear layers, and "prompt_tuning" sits on none'),
    ("ln-tuning", (), {"targets": ("query",)}, 'means linear layers, and "ln-tuning" sits on none; leave it out'),
    ("ia3", ("target_modules=query",), {"targets": "attention"}, "say the same; leave one out"),
    ("ia3", ("target_modules=querry",), {}, "does not take these settings on this model (No modules were targeted"),
    ("loha", ("r=-1",), {}, "does not take these settings on this model (`r`"),
    ("fourierft", ("n_frequency=5000",), {}, "`n_frequency` should be less than or equal"),
    ("trainable_tokens", ("token_indices=1",), {}, "has no place for a task head"),
    ("boft", ("bias=all", "boft_block_size=4"), {}, "changes the base weights themselves"),
]


@pytest.mark.parametrize(("method", "options", "section", "sentence"), WRONG, ids=lambda value: str(value)[:40])
def test_what_does_not_fit_is_one_sentence_and_leaves_the_model_as_it_was(
    tiny_bert_folder, method, options, section, sentence
):
    loaded = load(tiny_bert_folder, "bert")
    before = [(name, id(module)) for name, module in loaded.model.named_modules()]
    section = AdapterSection(kind="peft", init="random", peft_type=method, peft_options=options, **section)
    with pytest.raises(AdapterError) as caught:
        attach(loaded, section, task="sequence-classification")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [(name, id(module)) for name, module in loaded.model.named_modules()] == before
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    attach(loaded, AdapterSection(rank=4), task="sequence-classification")


def test_a_prompt_is_for_text(tiny_vit_folder):
    with pytest.raises(AdapterError, match='"prompt_tuning" is for text; choose another for image-classification'):
        make(tiny_vit_folder, "vit", "prompt_tuning", PROMPT)


def test_a_second_adapter_is_refused(tiny_bert_folder):
    for method, options in (("ia3", ()), ("ln_tuning", ("target_modules=LayerNorm",))):
        loaded, _ = make(tiny_bert_folder, "bert", method, options)
        for kind in ({"kind": "square"}, {"kind": "peft", "init": "random", "peft_type": "ia3"}):
            with pytest.raises(AdapterError, match="carries an adapter"):
                attach(loaded, AdapterSection(rank=2, **kind), task="sequence-classification")


def test_every_method_is_found_by_its_name_in_any_spelling():
    assert config_class("IA3") is config_class("ia3") is IA3Config
    assert config_class("Prompt-Tuning") is PromptTuningConfig
    for name in UNFIT:
        with pytest.raises(AdapterError, match="not among the methods to choose from"):
            config_class(name)


VALUES = [
    ("8", 8),
    ("-1.5", -1.5),
    ("1e-3", 1e-3),
    ("true", True),
    ("none", None),
    ("null", None),
    ("a,b", ["a", "b"]),
    ("q_proj, 3", ["q_proj", 3]),
    ('["a", "b"]', ["a", "b"]),
    ('"a,b"', "a,b"),
    ('{"a": 1}', {"a": 1}),
    ("{a = 1}", {"a": 1}),
    ("all-linear", "all-linear"),
    ("", ""),
    ("1\nother = 2", "1\nother = 2"),
    ("[broken", "[broken"),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_values_are_toml_json_lists_or_text(text, value):
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


plain = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text('abcäß"\\ ,=[]{}', max_size=8)


@given(st.recursive(plain, lambda inner: st.lists(inner, max_size=3), max_leaves=5))
def test_every_json_value_is_read_back(value):
    text = json.dumps(value)
    if "null" not in text or value is None:
        assert parse_value(text) == value


@given(st.text(max_size=40))
def test_no_text_breaks_the_reader(text):
    name = text.partition("=")[0].strip()
    with suppress(AdapterError):
        assert parse_options([text], LoHaConfig).keys() == {name}


def test_one_name_is_a_list_of_one():
    assert parse_options(["target_modules=query", "feedforward_modules=query"], IA3Config) == {
        "target_modules": ["query"],
        "feedforward_modules": ["query"],
    }
    assert parse_options(["target_modules=all-linear"], IA3Config) == {"target_modules": "all-linear"}
