"""What a round of each contender costs a client by formula: FLOPs, memory, sample passes, bytes."""

import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fedtune.recipe import Recipe
from fedtune.split.crossing import Ways
from fedtune.split.plan import CutCost, SplitPlan, plan_split
from fedtune.training.order import local_steps
from simulations.population import Population
from simulations.studies.cell import recipe_of
from simulations.studies.plan import Cell, Plan
from simulations.studies.split import FULL, LINEAR, LORA, SFPROMPT, SPLIT_LORA, TAIL, WHOLE_SPLIT
from simulations.studies.split_peak import peaks_of

MEASURED = (FULL, LORA, LINEAR, TAIL, WHOLE_SPLIT, SPLIT_LORA, SFPROMPT)
"""Contenders whose clients' memory is measured; the others hold what SFPrompt's do."""
VIT_B16 = {"name": "", "task": "image-classification", "image_size": 224, "labels": tuple("0123456789")}
"""The published setting's smaller model, ImageNet's usual size and CIFAR-10's classes; `name` is a folder."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One client's round, by the formulas of `fedtune split plan`."""

    flops: float
    memory: float
    """Bytes, in fp32."""
    passes: int
    """Sample passes with training: through the body, or through the whole model where there is no split."""
    alone: int
    """Sample passes from head to tail without the body, with training or to score."""
    update: Ways
    """Bytes of what is trained."""
    body: Ways = Ways(0, 0)  # noqa: RUF009 - frozen
    """Bytes to and from the body."""
    peak: float | None = None
    """Bytes of memory, measured; None where it was not."""


@dataclass(frozen=True, slots=True)
class Published:
    """SFPrompt's own setting by formula: ViT-B/16 at 224 pixels, five prompt tokens, half of the rows kept."""

    row: float
    """Bytes of one sample pass, both ways."""
    even_full: float
    """Sample passes a round from which full fine-tuning sends less."""
    saves_as_much: float
    """Sample passes a round at which the split sends 53 % fewer bytes."""
    share: float
    """The client's FLOPs over those of full fine-tuning, one layer at each end."""
    least_share: float
    """The same where it keeps embeddings and task head alone."""


def costs_of(plan: Plan, folder: Path) -> Mapping[str, Cost]:
    """By contender, for a client of the mean number of rows and, of texts, of the mean length of a batch.

    `folder` holds the study's rows. Raises FedtuneError where model or rows cannot be read.
    """
    (split,) = plan.splits
    recipes = {
        name: recipe_of(plan, Cell(stage="report", method=name, split=split, seed=plan.seeds[0], lr=1e-3), folder)
        for name in plan.contenders
    }
    rows, tokens = _size(next(recipe for recipe in recipes.values() if not recipe.split.active))
    peaks = peaks_of({name: recipes[name] for name in MEASURED if name in recipes}, folder)
    counted = {name: cost_of(recipe, rows=rows, tokens=tokens) for name, recipe in recipes.items()}
    return {name: replace(cost, peak=peaks.get(name)) for name, cost in counted.items()}


def cost_of(recipe: Recipe, *, rows: int, tokens: int | None = None) -> Cost:
    """Of one recipe: split, LoRA, or full fine-tuning; raises ModelError."""
    planned = plan_split(recipe, rows=rows, tokens=tokens)
    work = planned.work
    if recipe.split.active:
        cost = _wanted(planned)
        body = Ways(cost.round.up - cost.update.up, cost.round.down - cost.update.down)
        return Cost(cost.flops, cost.memory.total, work.passes, work.local + work.scored, cost.update, body)
    whole = planned.lora if recipe.adapter.kind == "lora" else planned.full
    return Cost(whole.flops, whole.memory.total, work.federated_passes, 0, whole.update)


def published() -> Published:
    """From the config alone; no weight is there."""
    from transformers import ViTConfig

    with tempfile.TemporaryDirectory() as folder:
        ViTConfig().save_pretrained(folder)
        plans = [_published(Path(folder), head, tail) for head, tail in ((1, 1), (0, 0))]
    usual, least = (_wanted(plan) for plan in plans)
    full = plans[0].full
    row = (usual.round.both - usual.update.both) / plans[0].work.passes
    return Published(
        row=row,
        even_full=(full.update.both - usual.update.both) / row,
        saves_as_much=(0.47 * full.update.both - usual.update.both) / row,
        share=usual.flops / full.flops,
        least_share=least.flops / full.flops,
    )


def _published(folder: Path, head: int, tail: int) -> SplitPlan:
    split = {"head_layers": head, "tail_layers": tail, "prompt_tokens": 5, "local_epochs": 1, "keep": 0.5}
    model = {**VIT_B16, "name": str(folder)}
    return plan_split(Recipe.model_validate({"model": model, "adapter": {"kind": "full"}, "split": split}), rows=1000)


def _wanted(plan: SplitPlan) -> CutCost:
    return next(cost for cost in plan.cuts if cost.cut == plan.wanted)


def _size(recipe: Recipe) -> tuple[int, int | None]:
    """A client's rows, and the tokens of a text in its batches, padding included; both are means."""
    population = Population.of(recipe)
    rows = round(statistics.fmean(len(part) for part in population.parts))
    if recipe.model.task == "image-classification":
        return rows, None
    clients = [population.rows.subset(part).lengths for part in population.parts]
    batches = [
        lengths[batch]
        for lengths in clients
        for step in local_steps(len(lengths), recipe.training, seed=0)
        for batch in step
    ]
    padded = sum(int(batch.max()) * len(batch) for batch in batches)
    return rows, round(padded / sum(map(len, batches)))
