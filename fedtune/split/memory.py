"""A client's memory by formula: weights, gradients and optimiser state of what is trained, activations.

    4·W + 4·N·(1 + s) + R·(t·a + e + m·(x + h·b)) + R·max(a, 2·e)

W: numbers that the client holds; N: numbers that it trains; s: numbers of optimiser state a trained one (2 of AdamW, 1
of SGD with momentum, else 0); R: rows of a micro-batch; a: bytes that a trained layer keeps of a row, b: the same of a
head layer (0 where no gradient passes it), e: of norm, task head and loss; x: the smashed row; m: micro-batches in
flight; t and h: layers of tail and head. The last term is what is at work: a layer, or the loss. An upper bound, for
gradients and activations are not all there at once.
"""

from dataclasses import dataclass

from fedtune.recipe import Recipe, TrainingSection
from fedtune.split.crossing import Crossing
from fedtune.split.cut import Cut
from fedtune.split.kept import Kept
from fedtune.split.outline import Outline
from fedtune.split.trained import Trained


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, in fp32."""

    weights: int
    training: int
    """Gradients and optimiser state."""
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.training + self.activations


def client_memory(
    recipe: Recipe, outline: Outline, cut: Cut, trained: Trained, kept: Kept, crossing: Crossing
) -> Memory:
    """Of a client of a split."""
    split, rows = recipe.split, recipe.training.batch_size
    numbers = outline.whole - cut.body * outline.layer + trained.added
    if split.train_head:
        head_layer = kept.trained
    else:
        head_layer = kept.passed if split.prompt_tokens and split.prompt_at == "input" else 0
    in_flight = min(split.in_flight, recipe.training.accumulate)
    waiting = in_flight * (4 * crossing.smashed * outline.width + cut.head * head_layer)
    row = cut.tail * kept.trained + kept.ends + waiting + max(kept.trained, 2 * kept.ends)
    return Memory(4 * numbers, _training(recipe.training, trained), rows * row)


def whole_memory(recipe: Recipe, outline: Outline, trained: Trained, kept: Kept) -> Memory:
    """Of a client that trains the whole model, or an adapter on all of it."""
    row = outline.layers * kept.trained + kept.ends + max(kept.trained, 2 * kept.ends)
    numbers = outline.whole + trained.added
    return Memory(4 * numbers, _training(recipe.training, trained), recipe.training.batch_size * row)


def _training(training: TrainingSection, trained: Trained) -> int:
    state = 2 if training.optimizer == "adamw" else int(training.momentum > 0)
    return 4 * trained.numbers * (1 + state)
