"""What noise on activations promises: ε by an independent accountant, sendings as they are made, and whose they are."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from fedtune.adapters.shift import NO_SHIFT
from fedtune.errors import PrivacyError
from fedtune.privacy.accounting.gaussian import gaussian_delta, gaussian_epsilon
from fedtune.recipe import Recipe
from fedtune.recipe.federation import FederationSection
from fedtune.recipe.split import SplitSection
from fedtune.split import pipeline
from fedtune.split.base import Share
from fedtune.split.noise import blurred
from fedtune.split.release import Release, as_json, release_of, said, shown
from fedtune.split.step import SplitStep
from fedtune.training.base import Assignment
from fedtune.training.make import local_bodies
from fedtune.training.order import local_steps
from fedtune.training.resident import Resident
from server.promise import promise
from tests.split.split_rounds import home, recipe, rows
from tests.training.parts import ListRows

NOISE = {"noise_multiplier": 2.0, "delta": 1e-5}


class Silent:
    """No noise, so that rows can be told apart."""

    def normal(self, shape: Any) -> torch.Tensor:
        return torch.zeros(tuple(shape), dtype=torch.float64)


def noised(**sections: dict[str, Any]) -> Recipe:
    split = {**NOISE, **sections.pop("split", {})}
    return recipe("vit", split=split, **sections)


class TestAccounting:
    @pytest.mark.parametrize(("sigma", "sendings"), [(2.0, 1), (10.0, 30), (60.0, 1000)])
    @pytest.mark.parametrize("delta", [1e-5, 1e-8])
    def test_epsilon_is_that_of_an_independent_accountant(self, sigma: float, sendings: int, delta: float) -> None:
        """The loss distribution of one sending of sensitivity 2·clip, composed numerically; it rounds up."""
        one = from_gaussian_mechanism(sigma, sensitivity=2.0, value_discretization_interval=1e-4)
        bound = one.self_compose(sendings).get_epsilon_for_delta(delta)
        assert Release(sigma, 1.0, delta, sendings, 0).epsilon() == pytest.approx(bound, rel=2e-3, abs=2e-3)

    def test_known_values(self) -> None:
        """μ = 1 at δ = 1e-5 is ε = 4.377 (Balle and Wang's analytic Gaussian mechanism)."""
        one = Release(2.0, 3.0, 1e-5, 1, 0)
        assert one.mu() == 1.0
        assert one.epsilon() == pytest.approx(4.3772, abs=1e-4)
        assert one.told_apart() == pytest.approx(float(norm.cdf(0.5)))
        assert Release(2.0, 3.0, 1e-5, 25, 3).mu() == pytest.approx(5.0)
        assert Release(2.0, 3.0, 1e-5, 0, 0).epsilon() == 0.0

    @given(mu=st.floats(1e-4, 900), delta=st.floats(1e-12, 0.09))
    @settings(max_examples=200)
    def test_epsilon_keeps_delta_and_is_the_least_that_does(self, mu: float, delta: float) -> None:
        epsilon = gaussian_epsilon(mu, delta)
        assert float(gaussian_delta(mu, epsilon)) <= delta * (1 + 1e-6)
        if epsilon:
            assert float(gaussian_delta(mu, epsilon * (1 - 1e-3))) > delta

    def test_beyond_what_doubles_solve_it_is_an_upper_bound_of_the_same_size(self) -> None:
        assert gaussian_epsilon(1000.1, 1e-5) == pytest.approx(gaussian_epsilon(999.9, 1e-5), rel=1e-3)
        assert math.isfinite(gaussian_epsilon(1e9, 1e-5))


class TestCounting:
    @given(
        held=st.integers(1, 30),
        batch=st.integers(1, 5),
        accumulate=st.integers(1, 3),
        work=st.one_of(st.tuples(st.just("epochs"), st.integers(1, 4)), st.tuples(st.just("steps"), st.integers(0, 9))),
        seed=st.integers(0, 99),
    )
    def test_no_row_comes_up_more_often_and_one_comes_up_so_often(
        self, held: int, batch: int, accumulate: int, work: tuple[str, int], seed: int
    ) -> None:
        training = {"batch_size": batch, "accumulate": accumulate, work[0]: work[1]}
        made = noised(training=training, federation={"rounds": 1})
        counts = Counter(i for step in local_steps(held, made.training, seed) for part in step for i in part)
        release, any_rows = release_of(made, rows=held), release_of(made)
        assert release is not None
        assert any_rows is not None
        assert release.trained == max(counts.values(), default=0)
        assert any_rows.trained >= release.trained

    def test_the_run_sends_a_row_in_every_round_and_a_held_out_one_in_every_evaluation(self) -> None:
        made = noised(federation={"rounds": 4, "evaluate_every": 1}, data={"holdout_fraction": 0.5})
        release = release_of(made)
        assert release is not None
        assert (release.trained, release.held_out, release.most) == (4, 5, 5)
        assert as_json(release)["sendings"] == 5

    def test_a_clients_held_out_rows_leave_fewer_to_train_on(self) -> None:
        section = {"holdout_fraction": 0.5}
        made = noised(training={"steps": 6, "batch_size": 4}, federation={"rounds": 1}, data=section)
        release = release_of(made, rows=16)
        assert release is not None
        assert (release.rows, release.trained) == (8, 3)
        assert "of a client that trains on 8 rows or more" in said(release)


class TestStatement:
    def test_says_what_holds_and_what_does_not_with_numbers_rounded_upwards(self) -> None:
        release = Release(2.0, 3.0, 1e-5, 1, 0)
        text = "ε = 4.38 at δ = 1e-05 (μ = 1, told from another row right in at most 69.2 % of cases)"
        assert shown(release) == text
        for part in (text, "1 sendings", "clipped to 3 with noise of 2 clips", "not covered", "tokens a row has"):
            assert part in said(release)

    def test_a_run_says_it_first(self) -> None:
        assert promise(noised()).startswith("activations: ε = ")
        assert promise(recipe("vit")) == ""

    @pytest.mark.parametrize("split", [{"prompt_tokens": 2}, {"train_head": True}, {"keep": 0.5}, {"body": "lora"}])
    def test_nothing_is_said_of_a_recipe_whose_noise_promises_nothing(self, split: dict[str, Any]) -> None:
        with pytest.raises(PrivacyError, match="promise nothing"):
            release_of(noised(split=split))

    def test_without_noise_there_is_nothing_to_say(self) -> None:
        assert release_of(recipe("vit")) is None


class TestSendings:
    @given(seed=st.integers(0, 999), size=st.sampled_from([1e-30, 1.0, 1e20]), clip=st.sampled_from([1e-3, 1.0, 77.0]))
    @settings(max_examples=40)
    def test_no_row_is_longer_than_the_clip_roundings_included(self, seed: int, size: float, clip: float) -> None:
        section = SplitSection(head_layers=1, noise_multiplier=1.0, clip=clip)
        hidden = size * torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(seed))
        sent = blurred(hidden, section, Silent())
        assert float(torch.linalg.vector_norm(sent.double().flatten(1), dim=1).max()) <= clip

    def test_a_row_that_is_not_finite_counts_as_zeros(self) -> None:
        hidden = torch.ones(3, 2, 4)
        hidden[0, 0, 0], hidden[1, 1, 1] = math.nan, math.inf
        sent = blurred(hidden, SplitSection(head_layers=1, noise_multiplier=1.0), Silent())
        assert torch.equal(sent[:2], torch.zeros(2, 2, 4))
        assert bool((sent[2] > 0).all())

    def test_what_wants_a_gradient_is_not_sent(self) -> None:
        hidden = torch.ones(1, 2, 4, requires_grad=True)
        with pytest.raises(PrivacyError, match="before the cut is trained"):
            blurred(hidden, SplitSection(head_layers=1, noise_multiplier=1.0), Silent())

    def test_each_sending_has_noise_of_its_own(self) -> None:
        resident = home("vit", split=NOISE | {"clip": 3.0}, training={"epochs": 2, "batch_size": 7})
        first, second, _ = sent_by(resident, rows("vit"), rounds=1)
        assert not set(first.flatten().tolist()) & set(second.flatten().tolist())
        noise = torch.cat((first, second)).std()  # of rows that are clipped to 3, and noise of 6 on each number
        assert float(noise) == pytest.approx(6.0, rel=0.1)

    def test_replacing_a_row_changes_the_sendings_of_that_row_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Over rounds whose tail learns from all rows, head frozen; BERT's has dropout, drawn by the micro-batch."""
        monkeypatch.setattr(pipeline, "SecureNoise", Silent)
        data = rows("bert", 6)
        tokens = data.examples[2]["input_ids"]
        other = ListRows([*data.examples[:2], {"input_ids": tokens[::-1], "labels": 0}, *data.examples[3:]])
        resident = home("bert", split=NOISE, training={"epochs": 2})
        one, two = (torch.cat(padded(sent_by(resident, held, rounds=2))) for held in (data, other))
        changed = (one != two).any(dim=1)
        release = release_of(resident.recipe.model_copy(update={"federation": of_rounds(2)}))
        assert release is not None
        assert int(changed.sum()) == release.trained + 1  # the last is the evaluation's
        assert len(one) == 6 * (release.trained + 1)

    def test_behind_a_trained_prompt_other_rows_would_tell_of_it(self) -> None:
        data = rows("vit", 6)
        other = ListRows(
            [
                *data.examples[:2],
                {**data.examples[2], "labels": (int(data.examples[2]["labels"]) + 1) % 3},
                *data.examples[3:],
            ]
        )
        resident = home("vit", split={"prompt_tokens": 2}, training={"epochs": 2})
        one, two = (torch.cat(sent_by(resident, held, rounds=2)) for held in (data, other))
        assert int((one != two).any(dim=1).sum()) > 6

    def test_where_rows_are_chosen_others_would_be_sent_in_its_stead(self) -> None:
        """A label alone, which no activation tells of, decides which other rows leave."""
        data, resident = rows("vit", 6), home("vit", split={"keep": 0.5})
        left = set()
        for label in range(3):
            other = ListRows([*data.examples[:2], {**data.examples[2], "labels": label}, *data.examples[3:]])
            *trained, _evaluated = sent_by(resident, other, rounds=1)
            left.add(tuple(sorted(float(row.sum()) for row in torch.cat(trained[:2]))))
        assert len(left) > 1


def of_rounds(rounds: int) -> FederationSection:
    return FederationSection(rounds=rounds)


def padded(sent: list[torch.Tensor]) -> list[torch.Tensor]:
    """To one length."""
    longest = max(part.shape[1] for part in sent)
    return [torch.nn.functional.pad(part, (0, longest - part.shape[1])) for part in sent]


def sent_by(resident: Resident, data: ListRows, *, rounds: int) -> list[torch.Tensor]:
    """(rows, numbers) of each micro-batch that leaves over the rounds of one client, and one evaluation of its rows."""
    open_body, sent = local_bodies(resident.recipe), []

    def opened(share: Share) -> Any:
        body: Any = open_body(share)
        forward = body.forward
        body.forward = lambda n, s, w, *, train: sent.append(s.hidden.flatten(1)) or forward(n, s, w, train=train)
        return body

    state, step = resident.initial, SplitStep(resident, opened)
    for round_ in range(1, rounds + 1):
        [result] = step.train([Assignment("c", round_, state, data, round_, run="r")])
        state = result.state
    step.evaluate(state, data, NO_SHIFT, Share("r", rounds, "c"))
    return sent
