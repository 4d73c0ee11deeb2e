"""What a split run saves: whole again, it computes what head, body and tail did."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fedtune.adapters.replaced import read_replaced
from fedtune.adapters.saved import CONFIG, PROMPT, REPLACED, REPLACED_CONFIG
from fedtune.errors import AdapterError
from fedtune.models.load import load_model
from fedtune.split.base import Smashed
from fedtune.split.exported import load_exported
from fedtune.split.joined import joined
from fedtune.split.local import body_model
from fedtune.training.resident import Resident
from tests.split.split_models import CPU, FAMILIES, batch
from tests.split.split_rounds import home, rows, train

PROMPTS: dict[str, dict[str, Any]] = {
    "at the input": {"prompt_tokens": 2},
    "at the cut": {"prompt_tokens": 2, "prompt_at": "cut"},
    "deep": {"prompt_tokens": 2, "deep_prompts": True, "tail_layers": 2},
}


def trained(family: str, kind: str = "full", **split: Any) -> Resident:
    """A client's part after a round, with its tensors in place."""
    init = {"lora": "kaiming"}.get(kind, "weights")
    resident = home(family, adapter={"kind": kind, "init": init, "rank": 2}, split=split, training={"lr": 0.5})
    resident.attached.load(train(resident, rows(family)).state)
    return resident


def through_parts(resident: Resident, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The logits by head, body and tail."""
    assert resident.parts is not None
    with torch.no_grad():
        smashed = resident.parts.head(inputs)
        output = body_model(resident.recipe)(smashed.hidden, smashed.mask)[:, resident.parts.wants().output]
        logits: torch.Tensor = resident.parts.tail(Smashed(output, smashed.mask), inputs).logits
    return logits


def plain(resident: Resident) -> nn.Module:
    return load_model(resident.recipe.model, device=CPU, seed=99).model


@pytest.mark.parametrize("family", FAMILIES)
def test_the_merged_model_is_the_whole_with_what_was_trained(family: str) -> None:
    resident, inputs = trained(family), batch(family)
    merged = resident.attached.merged()
    with torch.no_grad():
        torch.testing.assert_close(merged(**inputs).logits, through_parts(resident, inputs), atol=1e-5, rtol=0)
        assert (merged(**inputs).logits - plain(resident)(**inputs).logits).abs().max() > 1e-3
    assert not any(parameter.requires_grad for parameter in merged.parameters())


@pytest.mark.parametrize(("family", "kind"), [("vit", "full"), ("llama", "full"), ("gpt2", "lora"), ("bert", "square")])
def test_what_was_trained_of_the_body_is_part_of_what_is_saved(family: str, kind: str, tmp_path: Path) -> None:
    init = {"lora": "kaiming"}.get(kind, "weights")
    resident = joined(home(family, adapter={"kind": kind, "init": init, "rank": 2}, split={"body": kind}))
    inputs = batch(family)
    draw = torch.Generator().manual_seed(2)
    before = through_parts(resident, inputs)
    names = resident.initial
    state = {n: t + 0.1 * torch.randn(t.shape, generator=draw) * n.startswith("body.") for n, t in names.items()}
    resident.attached.load(state)
    expected = through_parts(resident, inputs)
    assert (expected - before).abs().max() > 1e-3
    with torch.no_grad():
        torch.testing.assert_close(resident.attached.merged()(**inputs).logits, expected, atol=1e-5, rtol=0)
    resident.attached.save(tmp_path / "w", base="the base")
    model = plain(resident)
    if kind == "full":
        assert not model.load_state_dict(load_file(tmp_path / "w" / REPLACED), strict=False).unexpected_keys
    else:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, tmp_path / "w")
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-5, rtol=0)
    resident.attached.load(resident.initial)


@pytest.mark.parametrize("family", ["vit", "bert", "gpt2"])
def test_saved_weights_take_the_place_of_the_whole_models(family: str, tmp_path: Path) -> None:
    resident, inputs = trained(family), batch(family)
    resident.attached.save(tmp_path / "w", base="the base")
    assert {path.name for path in (tmp_path / "w").iterdir()} == {REPLACED, REPLACED_CONFIG, "README.md"}
    model = plain(resident)
    found = model.load_state_dict(load_file(tmp_path / "w" / REPLACED), strict=False)
    assert not found.unexpected_keys
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, through_parts(resident, inputs), atol=1e-5, rtol=0)


def test_a_saved_lora_adapter_belongs_on_the_whole_model(tmp_path: Path) -> None:
    from peft import PeftModel

    resident, inputs = trained("vit", "lora"), batch("vit")
    resident.attached.save(tmp_path / "a", base="the base")
    model = PeftModel.from_pretrained(plain(resident), tmp_path / "a")
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, through_parts(resident, inputs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["vit", "dinov2", "bert", "llama"])
@pytest.mark.parametrize("place", PROMPTS)
def test_prompts_stand_among_the_whole_models_tokens_again(family: str, place: str, tmp_path: Path) -> None:
    resident, inputs = trained(family, **PROMPTS[place]), batch(family)
    resident.attached.save(tmp_path / "w", base="the base")
    model = load_exported(tmp_path / "w")
    with torch.no_grad():
        expected = through_parts(resident, inputs)
        torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-5, rtol=0)
        model.prompts.input.zero_()
        assert (model(**inputs).logits - expected).abs().max() > 1e-4


def test_prompts_lie_beside_an_adapter_and_are_put_in_with_it(tmp_path: Path) -> None:
    resident, inputs = trained("vit", "lora", **PROMPTS["deep"]), batch("vit")
    resident.attached.save(tmp_path / "a", base="the base")
    assert {PROMPT, CONFIG, REPLACED_CONFIG} <= {path.name for path in (tmp_path / "a").iterdir()}
    with torch.no_grad():
        found = load_exported(tmp_path / "a")(**inputs).logits
        torch.testing.assert_close(found, through_parts(resident, inputs), atol=1e-5, rtol=0)


def test_a_plain_model_has_no_place_for_prompts() -> None:
    with pytest.raises(AdapterError, match="export the adapter alone"):
        trained("vit", prompt_tokens=2).attached.merged()


def test_folders_without_prompts_or_with_damage_are_refused(tmp_path: Path) -> None:
    resident = trained("vit")
    resident.attached.save(tmp_path / "w", base="the base")
    with pytest.raises(AdapterError, match="holds no soft prompts"):
        load_exported(tmp_path / "w")
    (tmp_path / "w" / REPLACED).write_bytes(b"no tensors")
    with pytest.raises(AdapterError, match="damaged"):
        read_replaced(tmp_path / "w")
    with pytest.raises(AdapterError, match="holds no weights"):
        load_exported(tmp_path)


def test_numbers_that_are_none_are_not_written(tmp_path: Path) -> None:
    resident = trained("vit", prompt_tokens=2)
    with torch.no_grad():
        resident.attached.parameters()["prompt.input"][0, 0] = float("nan")
    with pytest.raises(AdapterError, match="holds NaN"):
        resident.attached.save(tmp_path / "w", base="the base")
