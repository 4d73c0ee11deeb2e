"""What the federation knows, as a checkpoint keeps it."""

from fedtune.adapters.shift import Shift
from fedtune.aggregation.base import Global
from fedtune.runs.checkpoint import Checkpoint
from fedtune.state import State


def parts_of(world: Global) -> dict[str, State]:
    """What a checkpoint keeps beside the adapter's state, by name."""
    return {"shift": world.shift.tensors, "control": world.control, "memory": world.memory}


def world_of(checkpoint: Checkpoint) -> Global:
    """What a checkpoint's run knew after its round."""
    parts = checkpoint.parts
    return Global(
        state=checkpoint.state,
        shift=Shift(parts.get("shift", {}), str(checkpoint.extra.get("shift_key", ""))),
        control=parts.get("control", {}),
        memory=parts.get("memory", {}),
    )
