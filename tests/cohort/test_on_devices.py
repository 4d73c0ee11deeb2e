"""Shared passes on every kind of device that is here: a client ends where it ends alone on the same device.

On a machine with a CUDA GPU each test runs there too; elsewhere the CPU's are all there are.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from fedtune.cohort.packed import PackedPass
from fedtune.cohort.step import CohortStep
from fedtune.training.base import Assignment
from fedtune.training.loop import train_client
from fedtune.training.resident import Resident
from tests.cohort.adapted import set_dropout
from tests.cohort.cohorts import build, client, distance, with_training
from tests.cohort.private_cohorts import Drawn, home_of, in_turns, together
from tests.cohort.private_cohorts import client as private_client
from tests.training.private_parts import SeededNoise
from tests.training.private_parts import distance as apart

CLOSE = 1e-6
ROUGH = 0.05
"""Of how far a client moved: what is left of it where half of the digits are."""
On = Callable[[Resident], Resident]


@pytest.fixture(params=["cpu", "cuda"])
def on(request: pytest.FixtureRequest) -> On:
    """Moves a resident to a device."""
    device = torch.device(request.param)
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA GPU is here")

    def moved(home: Resident) -> Resident:
        home.attached.model.to(device)
        return replace(home, device=device)

    return moved


def cohort_of(home: Resident, family: str) -> list[Assignment]:
    return [client(home, family, number, rows) for number, rows in enumerate((5, 1, 4, 3))]


def shared(home: Resident) -> CohortStep:
    step = CohortStep(home)
    assert step.turns is None
    return step


@pytest.mark.parametrize(
    ("family", "kind", "targets"),
    [
        *(("bert", kind, "all-linear") for kind in ("lora", "square", "ravan", "prompt")),
        *(("vit", "square", "all-linear"), ("llama", "ravan", "all-linear"), ("gpt2", "square", "all-linear")),
        ("bert", "lora", ("bert.encoder.layer.1.attention.self.query", "bert.encoder.layer.1.attention.self.value")),
        ("llama", "lora", ("model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj")),
    ],
)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_cohort_ends_where_its_clients_end_alone(
    request: pytest.FixtureRequest, on: On, family: str, kind: str, targets: Any, optimizer: str
) -> None:
    home = on(build(request, family, kind, targets=targets))
    home = with_training(home, optimizer=optimizer, lr=3e-3, batch_size=2, epochs=2, max_grad_norm=0.3)
    cohort = cohort_of(home, family)
    alone = [train_client(home, share) for share in cohort]
    assert distance(list(shared(home).train(cohort)), alone) <= CLOSE
    assert all(tensor.device.type == "cpu" for one in alone for tensor in one.state.values())


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_dropout_does_not_depend_on_who_is_beside_a_row(request: pytest.FixtureRequest, on: On, family: str) -> None:
    home = on(with_training(build(request, family, "lora"), optimizer="sgd", lr=0.1, batch_size=2))
    set_dropout(home.attached.model, 0.3)
    cohort = cohort_of(home, family)
    alone = [next(shared(home).train([share])) for share in cohort]
    assert distance(list(shared(home).train(cohort)), alone) <= CLOSE
    set_dropout(home.attached.model, 0.0)
    assert distance(list(shared(home).train(cohort)), alone) > 1e-4


@pytest.mark.parametrize(("family", "kind"), [("bert", "lora"), ("vit", "square"), ("llama", "ravan")])
def test_private_steps_end_where_they_end_alone(request: pytest.FixtureRequest, on: On, family: str, kind: str) -> None:
    home = on(home_of(request, family, kind, {"clip": 0.5}, steps=2, batch_size=2, optimizer="sgd", lr=0.5))
    cohort = [private_client(home, family, number, rows) for number, rows in enumerate((9, 5))]
    drawn: Drawn = ([[0, 2, 3, 5, 8], [1]], [[], [0, 4]])
    noise = [SeededNoise(0), SeededNoise(1)]
    ends = together(home, cohort, drawn, noise), in_turns(home, cohort, drawn, [SeededNoise(0), SeededNoise(1)])
    for one, other in zip(*ends, strict=True):
        assert apart(one.state, other.state) <= (CLOSE if home.device.type == "cpu" else 1e-4)


@pytest.mark.parametrize("family", ["bert", "vit", "llama"])
def test_half_precision_comes_close(request: pytest.FixtureRequest, on: On, family: str) -> None:
    """In bf16 too a client moves where it moves alone, but for what half of the digits leave."""
    home = on(build(request, family, "square"))
    home.attached.model.float()
    home = with_training(home, optimizer="sgd", lr=0.1, batch_size=4)
    cohort = [
        replace(share, state={name: tensor.float() for name, tensor in share.state.items()})
        for share in cohort_of(home, family)
    ]
    for share in cohort:
        for row in share.rows.examples if family == "vit" else ():
            row["pixel_values"] = row["pixel_values"].float()
    exact = list(shared(home).train(cohort))
    half = list(shared(replace(home, bf16=True)).train(cohort))
    for share, one, other in zip(cohort, exact, half, strict=True):
        moved = sum(float((one.state[name] - share.state[name]).norm() ** 2) for name in one.state) ** 0.5
        away = sum(float((one.state[name] - other.state[name]).norm() ** 2) for name in one.state) ** 0.5
        assert 0 < away <= ROUGH * moved


def test_what_is_kept_of_rows_is_on_the_device_and_is_read_again(request: pytest.FixtureRequest, on: On) -> None:
    targets = ("bert.encoder.layer.1.attention.self.query",)
    home = on(build(request, "bert", "lora", targets=targets))
    home = with_training(home, optimizer="sgd", lr=0.1, batch_size=2, epochs=2)
    step, cohort = shared(home), cohort_of(home, "bert")
    first, again = list(step.train(cohort)), list(step.train(cohort))
    assert distance(first, again) <= CLOSE
    assert step._works is not None
    forward = step._works.forward
    assert isinstance(forward, PackedPass)
    assert forward._prefix is not None
    assert forward._prefix.cache.counts.memory > 0
