"""Dropout in shared passes: each row's is that of the row alone in the model's own forward pass under its own seed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from fedtune.cohort.base import Part, Predicted
from fedtune.cohort.dropping import CohortDropout, drops
from fedtune.cohort.drops import Drops
from fedtune.cohort.lane import Lane
from fedtune.cohort.packed import PackedPass
from fedtune.cohort.place import in_place
from fedtune.cohort.room import USUAL
from fedtune.cohort.step import CohortStep
from fedtune.cohort.works import Works
from fedtune.data.base import Batch
from fedtune.errors import TrainingError
from fedtune.recipe.privacy import PrivacySection
from fedtune.seeds import generator
from fedtune.training.base import Assignment, LocalResult
from fedtune.training.forward import IGNORED, forward
from fedtune.training.loop import train_client
from fedtune.training.mode import in_mode
from fedtune.training.resident import Resident
from tests.cohort.adapted import adapted, close, rows_of, set_dropout
from tests.cohort.cohorts import build, client, distance, with_training

CHANCE = 0.3
LENGTHS = (7, 3, 5, 2, 6)
TEXTS = ("bert", "roberta", "distilbert", "llama", "qwen2", "qwen3", "mistral", "gpt2")


def dropping(home: Resident) -> Resident:
    """The same resident, in whose model everything drops that can."""
    set_dropout(home.attached.model, CHANCE)
    return home


def alone(home: Resident, part: Part, row: int, seed: int) -> Predicted | None:
    """A row by itself, without padding, by the model's own modules in training mode; None where it learns nothing."""
    batch = part[0].batch([part[1][row]])
    labels = batch.pop("labels")
    torch.manual_seed(seed)
    logits = home.attached.model(**batch, **home.extra).logits
    if labels.ndim > 1:
        logits, labels = logits[:, :-1][labels[:, 1:] != IGNORED], labels[:, 1:][labels[:, 1:] != IGNORED]
    return Predicted(logits, labels, labels) if len(labels) else None


def by_themselves(home: Resident, parts: Sequence[Part], seeds: Sequence[int]) -> list[Predicted]:
    """All rows of all parts, one after the other."""
    places = [(part, row) for part in parts for row in range(len(part[1]))]
    with torch.random.fork_rng(devices=[]), in_mode(home.attached.model, training=True):
        found = [alone(home, part, row, seed) for (part, row), seed in zip(places, seeds, strict=True)]
    return [one for one in found if one is not None]


def slopes(home: Resident, predicted: Sequence[Predicted]) -> dict[str, torch.Tensor]:
    """The gradient of the summed loss by every trained tensor."""
    parameters = home.attached.parameters()
    loss = sum(cross_entropy(one.logits, one.targets, reduction="sum") for one in predicted)
    assert isinstance(loss, torch.Tensor)
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


@pytest.mark.parametrize("family", TEXTS)
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("kind", ["square", "lora", "prompt"])
@pytest.mark.parametrize("prune", [True, False])
def test_each_row_drops_what_it_would_drop_alone(family: str, first: int, kind: str, prune: bool) -> None:
    home = dropping(adapted(family, first=first, kind=kind))
    rows = rows_of(family, LENGTHS)
    parts: list[Part] = [(rows, [2, 0]), (rows, [1, 4, 3])]
    seeds = [11, 12, 13, 14, 15]
    works = Works.of(home, None, USUAL)
    together = PackedPass(home, works.lane, prune=prune)
    assert (together.unpruned is None) is prune
    parameters = home.attached.parameters()
    leaves = {name: torch.stack([p.detach()] * 2).requires_grad_() for name, p in parameters.items()}
    with in_place(home.attached.model, works.layers), in_mode(home.attached.model, training=True):
        works.lane.tensors = leaves
        found = together.logits(parts, seeds)
    expected = by_themselves(home, parts, seeds)
    close(found.logits, torch.cat([one.logits for one in expected]))
    loss = cross_entropy(found.logits, found.targets, reduction="sum")
    own = torch.autograd.grad(loss, list(leaves.values()))
    for name, both, other in zip(leaves, own, slopes(home, expected).values(), strict=True):
        assert other.abs().max() > 0, name
        close(both.sum(0), other)


def rows_alone(seed: int) -> Any:
    """A gradient of a step, row after row, each alone with torch's generator at its own seed."""
    coins = generator(seed, "dropout")

    def add(resident: Resident, batches: list[Batch]) -> torch.Tensor:
        singles = []
        for batch in batches:
            count = len(batch["labels"])
            seeds = torch.randint(2**63 - 1, (count,), generator=coins).tolist()
            singles += [(_row(batch, row), seed) for row, seed in enumerate(seeds)]
        learned = [(one, seed, _targets(one)) for one, seed in singles if _targets(one)]
        total = sum(targets for _, _, targets in learned)
        mean = torch.zeros(())
        for one, row_seed, targets in learned:
            torch.manual_seed(row_seed)
            loss = forward(resident, one).loss * (targets / total)
            loss.backward()
            mean = mean + loss.detach()
        return mean

    return add


def _row(batch: Batch, row: int) -> Batch:
    length = int(batch["attention_mask"][row].sum())
    return {name: tensor[row : row + 1, :length] if tensor.ndim > 1 else tensor[row : row + 1]
            for name, tensor in batch.items()}  # fmt: skip


def _targets(one: Batch) -> int:
    labels = one["labels"]
    return len(labels) if labels.ndim == 1 else int((labels[:, 1:] != IGNORED).sum())


def one_by_one(home: Resident, cohort: Sequence[Assignment]) -> list[LocalResult]:
    """Each client by the plain loop, each of its rows alone."""
    with torch.random.fork_rng(devices=[]):
        return [train_client(home, share, rows_alone(share.seed)) for share in cohort]


@pytest.mark.parametrize(
    ("family", "kind", "adapter"),
    [
        ("bert", "square", {}),
        ("bert", "lora", {"dropout": 0.4}),
        ("bert", "prompt", {}),
        ("gpt2", "ravan", {}),
        ("gpt2", "lora", {"dropout": 0.4, "freeze_a": True}),
        ("llama", "lora", {"dropout": 0.4}),
    ],
)
def test_clients_that_share_passes_end_as_rows_alone(
    request: pytest.FixtureRequest, family: str, kind: str, adapter: dict[str, Any]
) -> None:
    home = build(request, family, kind, **adapter)
    if family != "llama":  # there the adapter alone drops
        dropping(home)
    home = with_training(home, batch_size=2, accumulate=2, epochs=2, lr=1e-2, optimizer="adamw")
    cohort = [client(home, family, number, rows) for number, rows in enumerate((5, 2, 7))]
    step = CohortStep(home)
    assert step.turns is None
    expected = one_by_one(home, cohort)
    for found in (list(step.train(cohort)), [next(CohortStep(home).train([one])) for one in cohort]):
        assert distance(found, expected) < 2e-6  # losses are added up in single precision
        for one, other in zip(found, expected, strict=True):
            for name, tensor in other.state.items():
                close(one.state[name], tensor, within=1e-6)


def test_whoever_is_beside_a_client_and_however_passes_are_cut(request: pytest.FixtureRequest) -> None:
    bert = dropping(build(request, "bert", "square"))

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 60), st.integers(1, 3), st.data())
    def same(counts: list[int], most: int, size: int, data: st.DataObject) -> None:
        home = with_training(bert, batch_size=size, accumulate=2, lr=1e-2, optimizer="adamw")
        cohort = [client(home, "bert", number, rows) for number, rows in enumerate(counts)]
        together = list(CohortStep(home, most_tokens=most).train(cohort))
        order = data.draw(st.permutations(range(len(cohort))))
        again = {one.client: one for one in CohortStep(home).train([cohort[place] for place in order])}
        assert distance(together, [again[one.client] for one in together]) < 1e-6

    same()


def test_other_seeds_and_steps_drop_otherwise(request: pytest.FixtureRequest) -> None:
    home = with_training(dropping(build(request, "bert", "square")), batch_size=4, epochs=1)
    share = client(home, "bert", 1, 4)
    losses = [next(CohortStep(home).train([replace(share, seed=seed)])).metrics["loss"] for seed in (1, 2, 1)]
    assert losses[0] != losses[1]
    assert losses[0] == losses[2]
    coins = generator(1, "dropout")
    assert len({int(seed) for _ in range(2) for seed in torch.randint(2**63 - 1, (4,), generator=coins)}) == 8


def test_a_pass_that_fails_leaves_clients_their_dropout(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = with_training(dropping(build(request, "bert", "square")), batch_size=2, epochs=1)
    cohort = [client(home, "bert", number, 3) for number in range(3)]
    step = CohortStep(home)
    expected = list(step.train(cohort))
    real, calls = PackedPass.logits, []

    def failing(self: PackedPass, parts: Sequence[Part], seeds: Sequence[int] = ()) -> Predicted:
        calls.append(len(parts))
        if len(parts) > 1:
            raise RuntimeError("no room for two")
        return real(self, parts, seeds)

    monkeypatch.setattr(PackedPass, "logits", failing)
    assert distance(list(step.train(cohort)), expected) < 1e-6
    assert calls[0] == 3
    assert set(calls[1:]) == {1}


def test_too_little_memory_for_one_is_said(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Predicted:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    home = with_training(dropping(build(request, "bert", "square")), batch_size=2)
    monkeypatch.setattr(PackedPass, "logits", full)
    results = CohortStep(home).train([client(home, "bert", number, 3) for number in range(2)])
    for _ in range(2):
        with pytest.raises(TrainingError, match=r"cpu ran out of memory; lower training\.batch_size"):
            next(results)


def test_nothing_is_kept_of_rows_that_are_dropped_from(request: pytest.FixtureRequest) -> None:
    home = dropping(adapted("bert", first=1))
    a_pass = PackedPass(home, Lane())
    assert "drops numbers at random" in str(a_pass.unkept)
    assert "each row with dropout of its own" in a_pass.notes()
    inside = build(request, "llama", "lora", dropout=0.1, targets=("model.layers.1.self_attn.q_proj",))
    assert drops(inside)
    assert PackedPass(inside, Lane()).unkept is None  # what lies before the adapter is the same each time


def test_a_score_drops_nothing(request: pytest.FixtureRequest) -> None:
    home = build(request, "bert", "square")
    share = client(home, "bert", 1, 6)
    expected = CohortStep(home).evaluate(share.state, share.rows)
    scored = CohortStep(dropping(home)).evaluate(share.state, share.rows)
    assert scored.loss_sum == pytest.approx(expected.loss_sum, rel=1e-9)


def test_private_steps_drop_nothing(request: pytest.FixtureRequest) -> None:
    home = dropping(build(request, "bert", "square"))
    assert drops(home)
    private = PrivacySection(unit="example", delta=1e-5, noise_multiplier=1.0, sampling_rate=0.5)
    assert not drops(replace(home, recipe=home.recipe.model_copy(update={"privacy": private})))


def test_a_dropout_without_seeds_says_so() -> None:
    layer = CohortDropout(nn.Dropout(0.5), Lane())
    x = torch.ones(1, 2, 3)
    with pytest.raises(ValueError, match="no seeds"):
        layer.train()(x)
    assert torch.equal(layer.eval()(x), x)


def test_what_is_not_of_the_stream_is_refused() -> None:
    masks = Drops([1, 2], [3, 2], torch.tensor([0, 3]), [1, 1])
    for shape in ((1, 4, 6), (3, 6), (2, 3, 6)):
        with pytest.raises(ValueError, match="not that of rows in a stream"):
            masks.of(torch.ones(shape), 0.5)


@pytest.mark.parametrize("chance", [0.1, 0.5])
def test_as_many_are_dropped_as_the_chance_says(chance: float) -> None:
    """Within five standard deviations; those that stay are scaled up."""
    left = Drops([5, 6], [300, 200], torch.tensor([0, 300]), [1, 1]).of(torch.ones(1, 500, 200), chance)
    count = left.numel()
    gone = float((left == 0).sum())
    assert abs(gone - chance * count) < 5 * (chance * (1 - chance) * count) ** 0.5
    assert torch.equal(left.unique(), torch.tensor([0.0, 1 / (1 - chance)]))


def test_images_have_no_masks_of_their_own(request: pytest.FixtureRequest) -> None:
    with pytest.raises(ValueError, match="no masks of their own"):
        PackedPass(build(request, "vit", "square"), Lane()).logits([], [1])
