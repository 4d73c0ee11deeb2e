"""The body in this process, what is rounded on the way through the cuts, and noise on what leaves."""

import pytest
import torch

from fedtune.adapters.shift import NO_SHIFT
from fedtune.errors import TrainingError
from fedtune.recipe import Recipe
from fedtune.recipe.split import SplitSection
from fedtune.split.activations import error_bound
from fedtune.split.base import Share, Smashed, Wants
from fedtune.split.local import LocalBody, body_model
from fedtune.split.noise import blurred
from fedtune.split.pipeline import Pipeline
from fedtune.split.step import SplitStep
from fedtune.training.make import local_bodies
from tests.split.split_rounds import Watched, home, recipe, rows, train


class Known:
    """Noise of a test's choice."""

    def __init__(self, value: float = 0.0) -> None:
        self.value = value

    def normal(self, shape: object) -> torch.Tensor:
        return torch.full(tuple(shape), self.value, dtype=torch.float64)  # type: ignore[arg-type]


def smashed(rows_: int = 2, tokens: int = 5) -> Smashed:
    return Smashed(torch.randn(rows_, tokens, 16, generator=torch.Generator().manual_seed(0)))


def bodies(**split: object) -> tuple[Recipe, LocalBody]:
    made = recipe("vit", split=split)
    return made, LocalBody(body_model(made), made.split)


def test_answers_are_the_models_and_autograds() -> None:
    made, body = bodies()
    sent = smashed()
    leaf = sent.hidden.clone().requires_grad_()
    output = body_model(made)(leaf)
    answer = body.forward(7, sent, Wants(slice(0, 2), slice(1, 4)), train=True).result()
    assert torch.equal(answer, output[:, :2])
    gradient = torch.randn(2, 2, 16)
    output[:, :2].backward(gradient)
    assert leaf.grad is not None
    torch.testing.assert_close(body.backward(7, gradient).result(), leaf.grad[:, 1:4])
    assert all(parameter.grad is None for parameter in body_model(made).parameters())


@pytest.mark.parametrize(("wants", "kept"), [(Wants(), False), (Wants(gradient=None), True)])
def test_nothing_is_kept_where_no_gradient_will_be_asked_for(wants: Wants, kept: bool) -> None:
    _, body = bodies()
    body.forward(0, smashed(), wants, train=kept)
    with pytest.raises(TrainingError, match="has no backward pass"):
        body.backward(0, torch.zeros(2, 5, 16))


def test_a_micro_batch_goes_back_once_and_a_closed_body_keeps_none() -> None:
    _, body = bodies()
    for number in range(2):
        body.forward(number, smashed(), Wants(), train=True)
    body.backward(0, torch.ones(2, 5, 16))
    body.close()
    body.close()
    for number in range(2):
        with pytest.raises(TrainingError):
            body.backward(number, torch.ones(2, 5, 16))


@pytest.mark.parametrize("kind", ["fp16", "bf16", "int8", "topk"])
def test_what_crosses_is_rounded_as_a_deployment_rounds_it(kind: str) -> None:
    _, exact = bodies()
    made, body = bodies(activations=kind)
    sent = smashed()
    seen: list[torch.Tensor] = []
    handle = body_model(made).register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    rounded = body.forward(0, sent, Wants(), train=True).result()
    handle.remove()
    bound = error_bound(sent.hidden, made.split.activations, made.split.topk)
    assert not torch.equal(seen[0], sent.hidden)
    assert bool(((seen[0] - sent.hidden).abs() <= bound + 1e-7).all())
    assert not torch.equal(rounded, exact.forward(0, sent, Wants(), train=False).result())
    resident = home("vit", split={"activations": kind, "prompt_tokens": 2})
    assert train(resident, rows("vit")).metrics["loss"] < 5


def test_without_noise_nothing_changes() -> None:
    hidden = smashed().hidden
    assert blurred(hidden, SplitSection(head_layers=1), Known(1.0)) is hidden


def test_rows_are_clipped_and_blurred() -> None:
    section = SplitSection(head_layers=1, noise_multiplier=0.5, clip=3.0)
    hidden = torch.stack((torch.full((5, 16), 0.01), torch.full((5, 16), 9.0)))
    clipped = blurred(hidden, section, Known())
    torch.testing.assert_close(clipped[0], hidden[0])
    assert float(clipped[1].norm()) == pytest.approx(3.0, abs=1e-5)
    torch.testing.assert_close(blurred(hidden, section, Known(2.0)) - clipped, torch.full((2, 5, 16), 3.0))


def test_noise_is_on_what_leaves_and_is_never_the_same_again() -> None:
    resident = home("vit", split={"noise_multiplier": 0.5, "clip": 10.0, "delta": 1e-5})
    first, again = (train(resident, rows("vit")).state for _ in range(2))
    assert any(not torch.equal(first[name], again[name]) for name in first)
    sent: list[torch.Tensor] = []
    watched = Watched(resident.recipe)
    body = watched(Share("r", 1, "c"))
    forward = body.forward
    body.forward = lambda n, s, w, *, train: (sent.append(s.hidden), forward(n, s, w, train=train))[1]  # type: ignore[method-assign]
    pipeline = Pipeline(resident, body, 0, noise=Known())
    list(pipeline.outputs(resident, [rows("vit").batch([0, 1])]))
    assert float(sent[0].flatten(1).norm(dim=1).max()) <= 10.0 + 1e-4


def test_a_score_goes_through_the_body_of_whom_it_is() -> None:
    resident = home("vit", training={"eval_batch_size": 2})
    watched = Watched(resident.recipe)
    share = Share("r", 2, "me")
    score = SplitStep(resident, watched).evaluate(resident.initial, rows("vit", 7), NO_SHIFT, share)
    assert watched.shares == [share]
    assert (watched.rows, watched.calls["backward"], watched.calls["close"]) == (7, 0, 1)
    assert score.examples == 7
    assert score == SplitStep(resident, local_bodies(resident.recipe)).evaluate(resident.initial, rows("vit", 7))
