"""What a split costs the client at every cut, and what federated training without one would: before anything runs."""

from dataclasses import dataclass, replace
from typing import Any

from fedtune.recipe import Recipe
from fedtune.split.crossing import Crossing, Ways, break_even
from fedtune.split.cut import Cut
from fedtune.split.flops import RowFlops, Stack
from fedtune.split.kept import Kept, kept_by
from fedtune.split.memory import Memory, client_memory, whole_memory
from fedtune.split.outline import Outline, outline_of
from fedtune.split.trained import Trained, lora_of, trained_of
from fedtune.split.work import Work, work_of

LORA_RANK = 32
"""The rank of the LoRA that a split is set beside, where the recipe's own adapter is none."""


@dataclass(frozen=True, slots=True)
class Federated:
    """One client's round of federated training without a split."""

    name: str
    trained: int
    """Numbers."""
    update: Ways
    """Bytes of a round."""
    memory: Memory
    flops: int
    """Of a round, over the same rows for `training.epochs` (or `steps`)."""


@dataclass(frozen=True, slots=True)
class CutCost:
    """One client's cost at one cut."""

    cut: Cut
    memory: Memory
    trained: int
    """Numbers."""
    step_flops: int
    """Of the client, one optimiser step through the body."""
    flops: int
    """Of the client, a round with all its phases."""
    step: Ways
    """Bytes of one optimiser step through the body."""
    update: Ways
    """Bytes of what is trained, once a round."""
    round: Ways
    """Bytes of a round: all steps and the update."""
    even_full: float | None
    """Sample passes a round from which full fine-tuning sends less; None where it always does."""
    even_lora: float | None
    """The same against LoRA."""


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """Every cut of the sweep, and what they are set beside."""

    model: str
    layers: int
    tokens: int
    """Of a row, soft prompts among them."""
    work: Work
    wanted: Cut | None
    """The recipe's own cut; None where it has none."""
    cuts: tuple[CutCost, ...]
    full: Federated
    lora: Federated


def plan_split(recipe: Recipe, *, rows: int, tokens: int | None = None) -> SplitPlan:
    """Plan for clients of `rows` rows, of `tokens` tokens each where they are texts (`max_length` if None).

    Every head for the recipe's tail and every tail for its head; of a recipe without a split for one layer of each.
    Of the model nothing but its config is read. Raises ModelError.
    """
    outline = outline_of(recipe.model)
    wanted = recipe.split
    if not wanted.active:
        recipe = recipe.model_copy(update={"split": wanted.model_copy(update={"head_layers": 1})})
    own = outline.tokens(recipe.model, tokens)
    every = own + recipe.split.prompt_tokens
    kept = kept_by(recipe.model, outline, every)
    work = work_of(recipe, rows)
    full, lora = _federated(recipe, outline, own, kept, work)
    setting = _Setting(recipe, outline, own, kept, work, full.update, lora.update)
    cuts = _sweep(recipe.split.head_layers or 0, recipe.split.tail_layers, outline.layers)
    asked = next((c for c in cuts if (c.head, c.tail) == (wanted.head_layers, wanted.tail_layers)), None)
    return SplitPlan(
        recipe.model.name, outline.layers, every, work, asked, tuple(setting.cost(cut) for cut in cuts), full, lora
    )


def _sweep(head: int, tail: int, layers: int) -> list[Cut]:
    """All heads for one tail, then all other tails for one head."""
    pairs = [(h, tail) for h in range(layers - tail)] + [(head, t) for t in range(layers - head) if t != tail]
    return [Cut(h, layers - h - t, t) for h, t in pairs]


@dataclass(frozen=True, slots=True)
class _Setting:
    """All that the cuts of one plan share."""

    recipe: Recipe
    outline: Outline
    own: int
    kept: Kept
    work: Work
    full: Ways
    lora: Ways

    def cost(self, cut: Cut) -> CutCost:
        """What a client spends at this cut."""
        split = self.recipe.split.model_copy(update={"head_layers": cut.head, "tail_layers": cut.tail})
        recipe = self.recipe.model_copy(update={"split": split})
        trained = trained_of(recipe, self.outline, cut)
        crossing = Crossing.of(split, cut, self.outline.family, self.own)
        width, batch = self.outline.width, recipe.training.batch_size
        row, update = crossing.bytes(split, width), trained.update(recipe)
        forward, backward = client_flops(recipe, self.outline, cut, self.own)
        return CutCost(
            cut=cut,
            memory=client_memory(recipe, self.outline, cut, trained, self.kept, crossing),
            trained=trained.numbers,
            step_flops=self.work.step_rows * (forward + backward),
            flops=self.work.split_flops(forward, backward),
            step=crossing.bytes(split, width, batch) * recipe.training.accumulate,
            update=update,
            round=row * self.work.passes + update,
            even_full=break_even(self.full, update, row),
            even_lora=break_even(self.lora, update, row),
        )


def client_flops(recipe: Recipe, outline: Outline, cut: Cut, own: int) -> tuple[int, int]:
    """FLOPs forward and back of one row of `own` tokens at the client, through the body or past it."""
    split, trained = recipe.split, trained_of(recipe, outline, cut)
    every = own + split.prompt_tokens
    at_input = split.prompt_at == "input"
    first = RowFlops(outline, every if at_input else own, own, trained.maps, recipe.adapter.kind == "full")
    second = replace(first, tokens=every)
    if split.train_head:
        head = Stack(trained=cut.head)
    else:
        head = Stack(through=cut.head) if split.prompt_tokens and at_input else Stack(before=cut.head)
    tail = Stack(trained=cut.tail)
    forward = first.embed + head.forward(first) + tail.forward(second) + second.ends
    return forward, head.backward(first) + tail.backward(second) + second.ends * (1 + trained.head)


def _federated(recipe: Recipe, outline: Outline, own: int, kept: Kept, work: Work) -> tuple[Federated, Federated]:
    """Full fine-tuning and LoRA on the whole model, without soft prompts."""
    found = []
    for name, trained in (("full fine-tuning", Trained.whole(outline)), lora_of(recipe, outline, LORA_RANK)):
        row = RowFlops(outline, own, own, trained.maps, full=not trained.maps)
        stack = Stack(trained=outline.layers)
        flops = row.embed + stack.forward(row) + stack.backward(row) + row.ends * (2 + trained.head)
        memory = whole_memory(recipe, outline, trained, kept)
        found.append(Federated(name, trained.numbers, trained.update(recipe), memory, flops * work.federated_passes))
    return found[0], found[1]


def as_json(plan: SplitPlan) -> dict[str, Any]:
    """The plan as JSON values; bytes, FLOPs and sample passes as numbers."""
    from dataclasses import asdict

    return {"format": "fedtune split plan 1", **asdict(plan)}
