"""The last step of a client's round: its delta through the pipeline, and what that left out onto its own disk."""

from dataclasses import dataclass

import torch

from client.bench import Bench
from fedtune.adapters.slots import Slots, mask, narrow, narrow_shapes, widen
from fedtune.compression.feedback import keep, target
from fedtune.seeds import derive_seed
from fedtune.state import State, shapes_of
from fedtune.wire import Task

FEEDBACK, FEEDBACK_ROUND = "feedback/", "feedback-round"
"""In what a client keeps: its residual or copy, by name, in full shapes; the round after which it was kept."""


@dataclass(frozen=True, slots=True)
class Upload:
    """What is sent, and what is kept for the next time."""

    tensors: State
    kept: State
    round: int = 0
    """EF21: the round of the copy that was sent the difference to; 0 for zero."""


def upload(bench: Bench, task: Task, client: str, delta: State, slots: Slots, kept: State) -> Upload:
    """Encode a client's delta (full shapes, of the names that it sends), with the recipe's error feedback."""
    frame, pipeline = bench.frame, bench.pipeline
    seed = derive_seed(bench.recipe.run.seed, "upload", round_=task.round, client=client)
    if bench.feedback == "none":
        return Upload(pipeline.encode(narrow(delta, frame.axes, slots), seed=seed), {})
    before = {name.removeprefix(FEEDBACK): t for name, t in kept.items() if name.startswith(FEEDBACK)}
    round_ = int(kept[FEEDBACK_ROUND].item()) if FEEDBACK_ROUND in kept else 0
    if bench.feedback == "ef21" and round_ != task.feedback_round:
        before, round_ = {}, 0  # the coordinator's copy is another one: both begin again from zero
    mine, old = narrow(delta, frame.axes, slots), narrow(before, frame.axes, slots)
    encoded = pipeline.encode(target(mine, old, bench.feedback), seed=seed)
    shapes = narrow_shapes(shapes_of(delta), frame.axes, slots)
    sent = pipeline.decode(encoded, shapes, seed=seed)
    after = widen(keep(mine, old, sent, bench.feedback), frame.shapes, frame.axes, slots)
    for name, tensor in after.items():
        if slots is not None and name in before:  # what other slots left out waits for them
            rest = 1 - mask(frame.shapes[name], frame.axes.get(name, ()), slots)
            after[name] = tensor + before[name] * rest
    to_keep = {f"{FEEDBACK}{name}": tensor for name, tensor in {**before, **after}.items()}
    to_keep[FEEDBACK_ROUND] = torch.tensor([task.round], dtype=torch.float64)
    return Upload(encoded, to_keep, round_ if bench.feedback == "ef21" else 0)
