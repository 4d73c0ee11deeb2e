"""What of `[split]` a process's one client part and one body are made from: other cuts never share them."""

from collections.abc import Iterator
from typing import Any

import pytest

from fedtune.split.local import body_model
from fedtune.training.resident import forget_resident, resident
from tests.split.split_rounds import recipe

BASE: dict[str, Any] = {"head_layers": 1, "tail_layers": 1, "prompt_tokens": 2}


@pytest.fixture(autouse=True)
def _own_residents() -> Iterator[None]:
    forget_resident()
    yield
    forget_resident()


@pytest.mark.parametrize(
    "other",
    [
        {"head_layers": 0},
        {"head_layers": 2},
        {"tail_layers": 2},
        {"head_layers": 2, "tail_layers": 0},
        {"prompt_tokens": 0},
        {"prompt_tokens": 3},
        {"prompt_at": "cut"},
        {"deep_prompts": True},
        {"train_head": True},
    ],
)
def test_another_cut_or_prompt_makes_another_client_part(other: dict[str, Any]) -> None:
    first = resident(recipe("bert", split=BASE))
    second = resident(recipe("bert", split=BASE | other))
    assert second.loaded is not first.loaded
    again = resident(recipe("bert", split=BASE))
    assert again.loaded is not second.loaded
    assert again.loaded.fingerprint == first.loaded.fingerprint


def test_a_whole_model_is_no_client_part() -> None:
    part, whole = resident(recipe("bert", split=BASE)), resident(recipe("bert", split={"head_layers": None}))
    assert (part.parts is None, whole.parts is None) == (False, True)
    assert whole.loaded.fingerprint != part.loaded.fingerprint


@pytest.mark.parametrize("other", [{"keep": 0.5}, {"in_flight": 1}, {"local_epochs": 1}, {"activations": "int8"}])
def test_phases_and_codecs_share_it(other: dict[str, Any]) -> None:
    first = resident(recipe("bert", split=BASE))
    second = resident(recipe("bert", split=BASE | other))
    assert second.loaded is first.loaded
    assert second.recipe.split != first.recipe.split


@pytest.mark.parametrize("other", [{"head_layers": 2}, {"tail_layers": 2}, {"head_layers": 0, "tail_layers": 2}])
def test_another_cut_makes_another_body(other: dict[str, Any]) -> None:
    first = body_model(recipe("bert", split=BASE))
    assert body_model(recipe("bert", split=BASE | {"prompt_tokens": 0, "keep": 0.5})) is first
    second = body_model(recipe("bert", split=BASE | other))
    assert second is not first
    assert second.fingerprint != first.fingerprint
