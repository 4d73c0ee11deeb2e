"""What shared private steps promise: rows bounded, the plan's noise, neighbours that share nothing but passes."""

import logging
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy import stats

from fedtune.cohort.private_step import CohortPrivateStep
from fedtune.errors import PrivacyError, TrainingError
from fedtune.recipe import AdapterSection
from fedtune.state import digest
from fedtune.training.base import Assignment, LocalResult
from fedtune.training.resident import Resident
from tests.cohort.private_cohorts import SGD, RowsInTurns, client, home_of, sums, together
from tests.training.parts import ListRows, Meddling, adapted_resident, answer_rows, image_rows, text_rows
from tests.training.private_parts import ADAPTERS, Counted, NoNoise, distance, private, train_one_by_one


def norm_of(state: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in state.values()))


@pytest.fixture
def bert(request: pytest.FixtureRequest) -> Resident:
    return home_of(request, "bert", "square", {"clip": 0.3}, steps=1, **SGD)


@pytest.mark.parametrize("clipping", ["flat", "per-layer"])
@pytest.mark.parametrize(("family", "size"), [("bert", 0.2), ("llama", 20.0), ("vit", 1.0)])
def test_each_row_adds_its_own_clipped_gradient(
    request: pytest.FixtureRequest, family: str, size: float, clipping: str
) -> None:
    """Against one row alone in double precision, at ordinary and at extreme weights; never more than the clip."""
    home = home_of(request, family, "square", {"clip": 0.05, "clipping": clipping}, steps=1, **SGD)
    cohort = [client(home, family, number, 3) for number in range(2)]
    cohort = [
        replace(one, state={n: t * (1 if n.startswith("head") else size) for n, t in one.state.items()})
        for one in cohort
    ]
    longest = 0.0
    for row in range(3):
        for share, added in zip(cohort, sums(home, cohort, [[row], [row]]), strict=True):
            end = train_one_by_one(home, share, [[row]], NoNoise())
            expected = {name: (share.state[name].double() - end[name].double()) * 4 for name in end}
            # The states are fp32: beside the clip there is their rounding.
            rounding = 1e-6 * norm_of(share.state) * 4
            assert norm_of({name: added[name] - expected[name] for name in added}) <= 1e-4 * 0.05 + rounding
            assert norm_of(added) <= 0.05 + rounding
            longest = max(longest, norm_of(added))
    assert longest > 0.04


@pytest.mark.parametrize("family", ["bert", "llama", "vit"])
def test_one_row_more_or_less_moves_its_clients_sum_by_the_clip_and_no_other_sum(
    request: pytest.FixtureRequest, family: str
) -> None:
    home = home_of(request, family, "square", {"clip": 0.05}, steps=1, **{**SGD, "batch_size": 8})
    cohort = [client(home, family, number, 7) for number in range(3)]
    everything = list(range(7))
    more = sums(home, cohort, [everything] * 3)
    less = sums(home, cohort, [everything, [0, 1, 2, 4, 5, 6], everything])
    moved = [norm_of({n: one[n] - other[n] for n in one}) for one, other in zip(more, less, strict=True)]
    rounding = 1e-6 * norm_of(cohort[0].state) * 8
    assert 0.001 < moved[1] <= 0.05 + rounding
    assert max(moved[0], moved[2]) <= rounding


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_whose_gradient_is_not_finite_adds_nothing_and_spoils_nothing(
    request: pytest.FixtureRequest, bad: float
) -> None:
    home = home_of(request, "vit", "square", {"clip": 0.3}, steps=1, **SGD)
    cohort = [client(home, "vit", number, 4) for number in range(2)]
    spoiled = [dict(row) for row in image_rows(4, seed=0).examples]
    spoiled[2]["pixel_values"] = torch.full((3, 16, 16), bad)
    expected = sums(home, cohort, [[0, 1, 3], [0, 1]])
    cohort[0] = replace(cohort[0], rows=ListRows(spoiled))
    for one, other in zip(sums(home, cohort, [[0, 1, 2, 3], [0, 1]]), expected, strict=True):
        assert all(bool(tensor.isfinite().all()) for tensor in one.values())
        assert distance(one, other) < 3e-6


def test_rows_with_nothing_to_predict_add_nothing(request: pytest.FixtureRequest) -> None:
    home = home_of(request, "llama", "square", {"clip": 0.3}, steps=1, **SGD)
    cohort = [client(home, "llama", number, 3) for number in range(2)]
    silent = {"input_ids": [5, 6, 7], "labels": [-100] * 3}
    expected = sums(home, cohort, [[1], []])
    cohort = [
        replace(one, rows=ListRows([silent, *answer_rows(3, seed=n).examples[1:]])) for n, one in enumerate(cohort)
    ]
    first, second = sums(home, cohort, [[0, 1], [0]])
    assert distance(first, expected[0]) < 1e-6
    assert norm_of(second) == 0


def test_bf16_keeps_the_bound_and_comes_close(bert: Resident) -> None:
    """Autocast computes in bf16; gradients by row are clipped in fp32 and above, and looked at in fp32."""
    cohort = [client(bert, "bert", number, 4) for number in range(2)]
    half_home = replace(bert, bf16=True)
    full, half = sums(bert, cohort, [[0, 1], [2]]), sums(half_home, cohort, [[0, 1], [2]])
    for one, other in zip(full, half, strict=True):
        assert 0 < norm_of({n: one[n] - other[n] for n in one}) < 0.2 * norm_of(one)
    assert norm_of(half[1]) <= 0.3 + 1e-5


@pytest.mark.parametrize("rows", [[], [0, 1, 2]])
def test_the_noise_has_the_size_of_the_plan_whatever_was_drawn(request: pytest.FixtureRequest, rows: list[int]) -> None:
    """On every trained number of every client alike, σ·clip over the divisor, and normal; chance fails 1e-9."""
    folder = request.getfixturevalue("tiny_bert_folder")
    section = AdapterSection(kind="square", rank=30, targets="all-linear")
    home = private(adapted_resident(folder, section, steps=1, **SGD), clip=0.2, noise_multiplier=3.0)
    cohort = [client(home, "bert", number, 5) for number in range(2)]
    drawn = [rows, [4]]
    without = sums(home, cohort, drawn)
    results = CohortPrivateStep(home, rows=RowsInTurns([[own] for own in drawn])).train(cohort)
    noises = []
    for share, result, sum_ in zip(cohort, results, without, strict=True):
        noise = {n: (share.state[n].double() - t.double()) * 4 - sum_[n] for n, t in result.state.items()}
        noises.append(torch.cat([tensor.flatten() for tensor in noise.values()]) / 0.6)
        assert stats.kstest(noises[-1].numpy(), "norm").pvalue > 1e-9
        for tensor in noise.values():
            assert 1e-10 < stats.chi2.cdf(float(tensor.square().sum()) / 0.36, tensor.numel()) < 1 - 1e-10
    assert len(noises[0]) > 10_000
    assert abs(float(noises[0] @ noises[1])) < 6.5 * len(noises[0]) ** 0.5


def test_samples_without_rows_are_steps_of_noise_and_are_counted(request: pytest.FixtureRequest) -> None:
    """Also of a client that has no rows: neither the number of steps nor the noise tells."""
    home = home_of(request, "bert", "square", {}, **{**SGD, "steps": 3})
    cohort = [client(home, "bert", number, rows) for number, rows in enumerate((6, 0))]
    numbers = sum(tensor.numel() for tensor in cohort[0].state.values())
    for drawn in ([[[0], [], [1, 2]], [[], [], []]], [[[], [], []]] * 2):
        noise, rows = Counted(), RowsInTurns(drawn)
        results = list(CohortPrivateStep(home, noise=noise, rows=rows).train(cohort))
        assert (noise.calls, noise.drawn, rows.asked) == (6, 6 * numbers, 6)
        for share, result in zip(cohort, results, strict=True):
            assert (result.examples, result.metrics) == (1, {})
            assert set(result.rates.values()) == {3.0}
            assert all(not torch.equal(result.state[name], share.state[name]) for name in share.state)


def test_neighbours_and_rounds_never_share_noise_or_coins(bert: Resident) -> None:
    share = client(bert, "bert", 0, 30)
    step = CohortPrivateStep(bert)
    results = [*step.train([share] * 3), *step.train([share] * 3)]
    assert len({digest(result.state) for result in results}) == 6
    coins = list(CohortPrivateStep(bert, noise=NoNoise()).train([share] * 3))
    assert min(distance(coins[0].state, other.state) for other in coins[1:]) > 1e-4


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_who_diverges_is_named_and_touches_nobody(bert: Resident, poison: float) -> None:
    cohort = [client(bert, "bert", number, 4) for number in range(3)]
    drawn = [[[0, 1, 2]]] * 3
    expected = together(bert, cohort[::2], drawn[::2], [NoNoise()])
    cohort[1] = replace(cohort[1], state={n: t * 0 + poison for n, t in cohort[1].state.items()})
    results = CohortPrivateStep(bert, noise=NoNoise(), rows=RowsInTurns(drawn)).train(cohort)
    first = next(results)
    with pytest.raises(TrainingError, match=r"^c1: the weights are not finite after 1 private steps; lower"):
        next(results)
    for one, other in zip([first, next(results)], expected, strict=True):
        assert distance(one.state, other.state) <= 1e-6


def every_row(home: Resident) -> Resident:
    """The same, with no row left to chance."""
    private = home.recipe.privacy.model_copy(update={"sampling_rate": 1.0})
    return replace(home, recipe=home.recipe.model_copy(update={"privacy": private}))


def test_nothing_is_sent_where_a_frozen_tensor_was_changed(bert: Resident) -> None:
    model = bert.loaded.model
    for name in ("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.1.attention.self.query.B"):
        cohort = [client(bert, "bert", number, 4) for number in range(2)]
        frozen = dict(model.named_parameters()) | dict(model.named_buffers())
        cohort[1] = replace(cohort[1], rows=Meddling(text_rows(4), frozen[name]))
        results = CohortPrivateStep(every_row(bert)).train(cohort)
        for _ in cohort:
            with pytest.raises(PrivacyError, match=f"'{name}' was changed"):
                next(results)


def end(results: Any) -> LocalResult | Exception:
    try:
        return next(results)  # type: ignore[no-any-return]
    except Exception as error:
        return error


def test_a_torn_row_is_its_clients_own_trouble_and_nothing_is_left_behind(bert: Resident) -> None:
    model = bert.attached.model
    step = CohortPrivateStep(every_row(bert))
    before = dict(model.named_modules()), [m.training for m in model.modules()], torch.get_rng_state().tolist()
    cohort = [client(bert, "bert", number, 4) for number in range(3)]
    cohort[1] = replace(cohort[1], rows=ListRows([*text_rows(1).examples, {"input_ids": [4], "labels": "oops"}]))
    results = step.train(cohort)
    outcomes = [end(results) for _ in cohort]
    assert [type(one) for one in outcomes[::2]] == [LocalResult] * 2
    assert isinstance(outcomes[1], (TypeError, ValueError))
    assert (
        dict(model.named_modules()),
        [m.training for m in model.modules()],
        torch.get_rng_state().tolist(),
    ) == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_pass_that_mixes_rows_is_seen_and_clients_take_turns(
    bert: Resident, caplog: pytest.LogCaptureFixture
) -> None:
    """By half of the neighbour's logits, which changes no row that is alone."""
    cohort: list[Assignment] = [client(bert, "bert", number, 4) for number in range(2)]
    for share in (0.0, 0.5):
        step = CohortPrivateStep(bert, rows=RowsInTurns([[[0, 1]], [[2]]]))
        assert step._private is not None
        forward = step._private.works.forward
        plain = forward.logits

        def mixed(parts: Any, plain: Any = plain, share: float = share) -> Any:
            predicted = plain(parts)
            return replace(predicted, logits=predicted.logits + share * predicted.logits.roll(1, dims=0))

        forward.logits = mixed  # type: ignore[method-assign]
        if share:
            step._alone._mechanism = replace(step._alone._mechanism, rows=RowsInTurns([[[0, 1]], [[2]]]))
        with caplog.at_level(logging.WARNING):
            assert len(list(step.train(cohort))) == 2
        assert ("not the same beside another row" in caplog.text) == bool(share)
        assert (step.turns is None) == (not share)


def test_a_head_that_half_a_pass_leaves_out_is_refused_for_everyone(request: pytest.FixtureRequest) -> None:
    """What the private step refuses of a model is refused here, with its words."""
    folder = request.getfixturevalue("tiny_bert_folder")
    home = private(adapted_resident(folder, ADAPTERS["square"], steps=1))
    home.attached.model.get_parameter("bert.embeddings.LayerNorm.weight").requires_grad_(True)
    cohort = [client(home, "bert", number, 3) for number in range(2)]
    results = CohortPrivateStep(home).train(cohort)
    for _ in cohort:
        with pytest.raises(PrivacyError, match="requires a gradient and is not trained"):
            next(results)
