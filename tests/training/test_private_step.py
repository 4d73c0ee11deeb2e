"""What private steps promise: noise of the plan's size, one row bounded, empty samples, nothing else that leaves."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy import stats

from fedtune.adapters.slots import narrow, widen
from fedtune.cohort.private_step import CohortPrivateStep
from fedtune.cohort.step import CohortStep
from fedtune.errors import PrivacyError, TrainingError
from fedtune.recipe import AdapterSection
from fedtune.seeds import derive_seed
from fedtune.state import digest
from fedtune.training.base import Assignment
from fedtune.training.make import local_step
from fedtune.training.private import PrivateStep
from fedtune.training.resident import Resident
from fedtune.training.sequential import SequentialStep
from tests.training.parts import (
    ListRows,
    Meddling,
    adapted_resident,
    answer_rows,
    assignment,
    image_rows,
    random_state,
    text_rows,
)
from tests.training.private_parts import ADAPTERS, Counted, Given, NoNoise, SeededNoise, distance, lively, private

SQUARE = ADAPTERS["square"]
SGD = {"optimizer": "sgd", "lr": 1.0, "weight_decay": 0.0, "batch_size": 4}
"""Under which a step is the released gradient, with the sign turned."""


def norm_of(state: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in state.values()))


def step_of(home: Resident, share: Assignment, rows: list[int]) -> dict[str, torch.Tensor]:
    """The sum of one step without its noise: what the divisor divides."""
    result = next(PrivateStep(home, noise=NoNoise(), rows=Given(rows)).train([share]))
    training = home.recipe.training
    factor = training.batch_size * training.accumulate
    return {n: (share.state[n].double() - t.double()) * factor for n, t in result.state.items()}


@pytest.mark.parametrize("kind", ["square", "lora"])
def test_what_is_in_memory_at_a_time_changes_neither_result_nor_price(kind: str, tiny_bert_folder: Path) -> None:
    drawn = ([0, 2, 5, 6, 7, 9, 11, 12], list(range(13)))
    results, plans = [], set()
    for size, accumulate in ((12, 1), (4, 3), (1, 12)):
        home = adapted_resident(
            tiny_bert_folder, ADAPTERS[kind], steps=2, optimizer="sgd", lr=0.5, batch_size=size, accumulate=accumulate
        )
        step = PrivateStep(private(home, clip=0.4), noise=SeededNoise(2), rows=Given(*drawn))
        results.append(next(step.train([assignment(home, text_rows(13))])).state)
        plans.add((step._mechanism.divisor, step._mechanism.noise_multiplier, step._mechanism.sampling_rate))
    assert max(distance(results[0], other) for other in results[1:]) <= 1e-6
    assert plans == {(12, 1.0, 0.5)}


@pytest.mark.parametrize("rows", [[], [0, 1, 2]])
def test_the_noise_has_the_size_of_the_plan_whatever_was_drawn(rows: list[int], tiny_bert_folder: Path) -> None:
    """On every trained number alike, the standard deviation σ·clip over the divisor, and normal; chance fails 1e-9."""
    section = AdapterSection(kind="square", rank=30, targets="all-linear")
    home = private(adapted_resident(tiny_bert_folder, section, steps=1, **SGD), clip=0.2, noise_multiplier=3.0)
    share = assignment(home, text_rows(5))
    sum_ = step_of(home, share, rows)
    result = next(PrivateStep(home, rows=Given(rows)).train([share]))
    noise = {n: (share.state[n].double() - t.double()) * 4 - sum_[n] for n, t in result.state.items()}
    everything = torch.cat([t.flatten() for t in noise.values()]).numpy()
    assert len(everything) > 10_000
    assert stats.kstest(everything / (3.0 * 0.2), "norm").pvalue > 1e-9
    for tensor in noise.values():
        spread = stats.chi2.cdf(float(tensor.square().sum()) / 0.36, tensor.numel())
        assert 1e-10 < spread < 1 - 1e-10


def test_a_sample_without_rows_is_a_step_of_noise_alone_and_is_counted(tiny_bert_folder: Path) -> None:
    """Also for a client that has no rows: neither the number of steps nor the noise tells."""
    home = private(adapted_resident(tiny_bert_folder, SQUARE, steps=3, **SGD))
    for rows in (text_rows(6), ListRows([])):
        noise, chosen = Counted(), Given([], [], [])
        share = assignment(home, rows)
        result = next(PrivateStep(home, noise=noise, rows=chosen).train([share]))
        assert noise.calls == 3
        assert noise.drawn == 3 * sum(t.numel() for t in share.state.values())
        assert chosen.asked == [(len(rows), 0.5)] * 3
        assert all(not torch.equal(result.state[name], share.state[name]) for name in share.state)


def test_a_round_of_no_steps_hands_back_what_it_got(tiny_bert_folder: Path) -> None:
    for steps, trained in ((0, None), (2, ())):
        home = private(adapted_resident(tiny_bert_folder, SQUARE, steps=steps))
        share = replace(assignment(home, text_rows(5)), trained=trained)
        result = next(PrivateStep(home).train([share]))
        assert digest(result.state) == digest(share.state)
        assert all(result.state[n].data_ptr() != share.state[n].data_ptr() for n in share.state)


@pytest.mark.parametrize("clipping", ["flat", "per-layer", "automatic"])
@pytest.mark.parametrize("size", [0.2, 20.0])
@pytest.mark.parametrize("task", ["bert", "llama", "vit"])
def test_one_row_more_or_less_moves_the_sum_by_the_clip_at_most(
    task: str, size: float, clipping: str, request: pytest.FixtureRequest
) -> None:
    """At ordinary and at extreme weights; the longest row, so that padding changes for all others."""
    name, fixture, make_rows = {
        "bert": ("sequence-classification", "tiny_bert_folder", text_rows),
        "llama": ("causal-lm", "tiny_llama_folder", answer_rows),
        "vit": ("image-classification", "tiny_vit_folder", image_rows),
    }[task]
    home = adapted_resident(request.getfixturevalue(fixture), SQUARE, name, steps=1, **{**SGD, "batch_size": 8})
    home = private(lively(home), clip=0.01, clipping=clipping)
    rows = make_rows(7)
    state = {n: t * (1 if n.startswith("head") else size) for n, t in random_state(home).items()}
    share = replace(assignment(home, rows), state=state)
    widths = [len(row.get("input_ids", ())) for row in rows.examples]
    without = [i for i in range(7) if i != widths.index(max(widths))]
    more, less = step_of(home, share, list(range(7))), step_of(home, share, without)
    moved = norm_of({n: more[n] - less[n] for n in more})
    # The state itself is fp32: beside the clip there is its rounding.
    assert moved <= 0.01 + 1e-6 * norm_of(share.state) * 8
    assert moved > 0.001


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_whose_gradient_is_not_finite_adds_nothing_and_spoils_nothing(bad: float, tiny_vit_folder: Path) -> None:
    home = private(adapted_resident(tiny_vit_folder, SQUARE, "image-classification", steps=1, **SGD), clip=0.3)
    rows = image_rows(5)
    spoiled = [dict(row) for row in rows.examples]
    spoiled[2]["pixel_values"] = torch.full((3, 16, 16), bad)
    share = assignment(home, ListRows(spoiled))
    summed = step_of(home, share, [0, 1, 2, 3, 4])
    assert all(bool(t.isfinite().all()) for t in summed.values())
    expected = step_of(home, share, [0, 1, 3, 4])
    assert max(float((summed[n] - expected[n]).abs().max()) for n in summed) < 1e-6
    assert norm_of(step_of(home, share, [2])) == 0


def test_a_row_with_nothing_to_predict_adds_nothing(tiny_gpt2_folder: Path) -> None:
    home = private(adapted_resident(tiny_gpt2_folder, SQUARE, "causal-lm", steps=1, **SGD), clip=0.3)
    silent = {"input_ids": [5, 6, 7], "labels": [-100] * 3}
    share = assignment(home, ListRows([silent, *answer_rows(3).examples]))
    expected = step_of(home, share, [1, 2, 3])
    summed = step_of(home, share, [0, 1, 2, 3])
    assert max(float((summed[n] - expected[n]).abs().max()) for n in summed) < 1e-6
    assert norm_of(step_of(home, share, [0])) == 0


def test_a_result_says_nothing_of_the_rows_but_through_the_noise(tiny_bert_folder: Path) -> None:
    home = private(adapted_resident(tiny_bert_folder, SQUARE, steps=2))
    for count in (0, 1, 9):
        result = next(PrivateStep(home).train([assignment(home, text_rows(count))]))
        assert result.examples == 1
        assert result.metrics == {}
        assert set(result.rates.values()) == {2 * home.recipe.training.lr}


def test_neighbours_and_rounds_never_share_noise(tiny_bert_folder: Path) -> None:
    """The same seed, the same rows, the same state: two results, and again two others."""
    home = private(adapted_resident(tiny_bert_folder, SQUARE, steps=1))
    share, step = assignment(home, ListRows([])), PrivateStep(home)
    results = [*step.train([share, share]), *PrivateStep(home).train([share])]
    assert len({digest(result.state) for result in results}) == 3


def test_the_rows_of_a_step_do_not_come_from_the_recipes_seed(tiny_bert_folder: Path) -> None:
    home = private(adapted_resident(tiny_bert_folder, SQUARE, steps=1, **SGD))
    share = assignment(home, text_rows(30), seed=derive_seed(0, "train"))
    first, second = (next(PrivateStep(home, noise=NoNoise()).train([share])).state for _ in range(2))
    assert distance(first, second) > 1e-4


def test_exactly_the_trained_tensors_change_and_another_is_an_error(tiny_bert_folder: Path) -> None:
    home = private(adapted_resident(tiny_bert_folder, SQUARE, steps=2))
    trained = {id(p) for p in home.attached.parameters().values()}
    model = home.loaded.model
    frozen = {n: t for n, t in [*model.named_parameters(), *model.named_buffers()] if id(t) not in trained}
    before = digest(frozen)
    share = assignment(home, text_rows(6))
    result = next(PrivateStep(home, rows=Given([0], [1])).train([share]))
    assert digest(frozen) == before
    assert all(not torch.equal(result.state[n], t) for n, t in share.state.items())
    for name in ("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.1.attention.self.query.B"):
        meddling = replace(share, rows=Meddling(text_rows(6), frozen[name]))
        step = PrivateStep(home, rows=Given([0], [1]))
        step._seen_apart = True  # which would see that the model is another one at each pass
        with pytest.raises(PrivacyError, match=f"'{name}' was changed"):
            next(step.train([meddling]))


def hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules())


def test_nothing_is_left_behind_by_who_succeeds_and_who_fails(tiny_bert_folder: Path) -> None:
    home = private(adapted_resident(tiny_bert_folder, SQUARE, steps=2))
    model = home.attached.model
    before = hooks(model), [m.training for m in model.modules()], torch.get_rng_state().tolist()
    good = assignment(home, text_rows(6))
    torn = replace(good, rows=ListRows([*good.rows.examples[:3], {"input_ids": [4], "labels": "oops"}]))
    for share, fails in ((good, False), (torn, True)):
        step = PrivateStep(home, rows=Given([0, 1, 2, 3], [2, 3]))
        if fails:
            with pytest.raises((TypeError, ValueError)):
                next(step.train([share]))
        else:
            next(step.train([share]))
        assert (hooks(model), [m.training for m in model.modules()], torch.get_rng_state().tolist()) == before
        assert all(p.grad is None for p in model.parameters())
        assert not any(hasattr(p, "grad_sample") for p in model.parameters())


def test_a_compiled_or_recomputing_model_is_trained_as_it_is_without(tiny_llama_folder: Path) -> None:
    """Both would keep gradients from the hooks: the recipe refuses them, and the steps do not use them either."""
    results = []
    for checkpointing in (False, True):
        home = adapted_resident(
            tiny_llama_folder, SQUARE, "causal-lm", steps=1, gradient_checkpointing=checkpointing, **SGD
        )
        share = assignment(home, answer_rows(6))
        home = replace(private(home), call=None)  # type: ignore[arg-type]
        results.append(next(PrivateStep(home, noise=NoNoise(), rows=Given([1, 2, 3])).train([share])).state)
    assert distance(results[0], results[1]) == 0


def test_bf16_keeps_the_bound_and_comes_close(tiny_bert_folder: Path) -> None:
    """Autocast computes in bf16; gradients by row are clipped in fp32 and above."""
    home = private(adapted_resident(tiny_bert_folder, SQUARE, steps=1, **SGD), clip=0.05)
    share = assignment(home, text_rows(6))
    full = step_of(home, share, [0, 1, 2])
    half_home = replace(home, bf16=True)
    half, less = step_of(half_home, share, [0, 1, 2]), step_of(half_home, share, [0, 1])
    assert 0 < norm_of({n: half[n] - full[n] for n in full}) < 0.2 * norm_of(full)
    assert norm_of({n: half[n] - less[n] for n in full}) <= 0.05 + 1e-5


def test_a_client_of_fewer_slots_trains_the_smaller_adapter(tiny_bert_folder: Path) -> None:
    """What lies outside of the slots stays zero, and takes nothing of the clip. From zero, where gradients are small
    and steps are long, so that a wrong clip shows."""

    def home(rank: int) -> Resident:
        section = AdapterSection(kind="square", rank=rank, targets="attention", head=False)
        return private(adapted_resident(tiny_bert_folder, section, steps=2, **{**SGD, "lr": 1e6}), clip=1e-7)

    small, large = home(2), home(6)
    axes, alone = large.attached.axes(), assignment(small, text_rows(8))
    alone = replace(alone, state={name: torch.zeros_like(t) for name, t in alone.state.items()})
    share = replace(alone, state=widen(alone.state, large.shapes(), axes, (0, 1)), slots=(0, 1))
    drawn = ([0, 1, 2, 5], [3, 4, 6])
    expected = next(PrivateStep(small, noise=NoNoise(), rows=Given(*drawn)).train([alone])).state
    result = next(PrivateStep(large, noise=NoNoise(), rows=Given(*drawn)).train([share])).state
    own = narrow(result, axes, (0, 1))
    assert distance(own, expected) < 1e-3
    assert distance(own, alone.state) > 0.01
    noised = next(PrivateStep(large, rows=Given(*drawn)).train([share])).state
    for state in (result, noised):
        outside = {
            n: t - widen(narrow({n: t}, axes, (0, 1)), large.shapes(), axes, (0, 1))[n] for n, t in state.items()
        }
        assert not any(bool(t.any()) for t in outside.values())


def test_a_rate_that_noise_drives_to_infinity_is_one_sentence(tiny_bert_folder: Path) -> None:
    home = private(adapted_resident(tiny_bert_folder, SQUARE, steps=3, **{**SGD, "lr": 1e38}), noise_multiplier=1e6)
    with pytest.raises(TrainingError, match=r"^anna: the weights are not finite after 3 private steps; lower"):
        next(PrivateStep(home).train([assignment(home, text_rows(6), client="anna")]))


def test_the_step_follows_the_unit_of_the_recipe(tiny_bert_folder: Path) -> None:
    plain = adapted_resident(tiny_bert_folder, SQUARE)
    assert isinstance(local_step(plain), CohortStep)
    assert isinstance(local_step(private(plain, unit="client", population=10)), CohortStep)
    assert isinstance(local_step(private(plain)), CohortPrivateStep)
    for other in (plain, private(plain, unit="client")):
        with pytest.raises(PrivacyError, match=r'for privacy.unit = "example"'):
            PrivateStep(other)
    with pytest.raises(PrivacyError, match="noise_multiplier is open"):
        local_step(private(plain, noise_multiplier=None))


def test_scores_are_those_of_the_plain_step(tiny_bert_folder: Path) -> None:
    home = private(adapted_resident(tiny_bert_folder, SQUARE))
    state, rows = random_state(home), text_rows(9)
    assert PrivateStep(home).evaluate(state, rows) == SequentialStep(home).evaluate(state, rows)
