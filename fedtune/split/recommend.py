"""One cut out of a plan, the reason in a sentence, and what speaks against it."""

from dataclasses import dataclass

from fedtune.runs.words import bytes_text
from fedtune.split.plan import CutCost, SplitPlan

LEAKS = (
    "activations are not private at any cut, and shallow cuts leak most: behind one layer of the packaged models all "
    "tokens and 99.9 % of the images' variance were read off them, and behind all layers but one still 92.5 % and "
    "68.8 % (docs/split-leaks.md); `fedtune audit split` measures this recipe"
)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A cut, why, and warnings."""

    cut: CutCost
    reason: str
    warnings: tuple[str, ...]


def recommend(plan: SplitPlan, *, tail: int, limit: float | None = None) -> Recommendation:
    """The cut with the fewest bytes a round whose memory is at most `limit` bytes; of equals the deepest head.

    The tail is the recipe's, for what is trained decides what is learned, which no plan can see. A head of embeddings
    alone is passed over: its activations can be looked up. A head that costs more than half of the FLOPs of full
    fine-tuning is taken only where no other fits. Without a limit it is half of what LoRA on the whole model takes.
    """
    given = plan.lora.memory.total / 2 if limit is None else limit
    said = bytes_text(given) + ("" if limit is not None else f" (half of what {plan.lora.name} takes)")
    every = [cut for cut in plan.cuts if cut.cut.tail == tail]
    choices = [cut for cut in every if cut.cut.head] or every
    fitting = [cut for cut in choices if cut.memory.total <= given]
    light = [cut for cut in fitting if 2 * cut.flops <= plan.full.flops]
    if light or fitting:
        best = min(light or fitting, key=lambda cut: (cut.round.both, -cut.cut.head))
        spent = " and half the FLOPs of full fine-tuning" if light else ""
        reason = (
            f"no head within {said}{spent} sends fewer bytes a round with tail_layers = {tail}, and it is the deepest "
            "of those that send as few"
        )
    else:
        best = min(choices, key=lambda cut: cut.memory.total)
        reason = f"no client fits into {said}; this cut takes the least memory with tail_layers = {tail}"
    return Recommendation(best, reason, _warnings(plan, best))


def _warnings(plan: SplitPlan, cut: CutCost) -> tuple[str, ...]:
    found = [LEAKS]
    for other, even in ((plan.full, cut.even_full), (plan.lora, cut.even_lora)):
        if even is None or plan.work.passes > even:
            times = cut.round.both / other.update.both
            found.append(
                f"with {plan.work.passes:,} sample passes a round the split sends {times:,.1f} times what federated "
                f"{other.name} would: it saves memory here, not bytes"
            )
    return tuple(found)
