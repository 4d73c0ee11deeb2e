"""What clients are sent of a new global state: one encoded step, the same for all, with the coordinator's feedback."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from fedtune.aggregation import Global
from fedtune.compression import Pipeline, make_pipeline
from fedtune.compression.feedback import keep, target
from fedtune.recipe import Recipe
from fedtune.seeds import derive_seed
from fedtune.split.sides import client_side
from fedtune.state import State, add, digest, shapes_of, subtract

RESIDUAL = "download/"
"""In `Global.memory`: what the steps so far have left out, by name."""
LONGEST = 32
"""Steps that are remembered for clients that missed some."""


@dataclass(frozen=True, slots=True)
class Step:
    """From one global state to the next."""

    start: str
    end: str
    round: int
    tensors: Mapping[str, torch.Tensor]

    def size(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


class Download:
    """Turns each round's result into what the encoded step says of it, so that all hold the same state, bit for bit."""

    def __init__(self, recipe: Recipe) -> None:
        self._pipeline: Pipeline = make_pipeline(recipe.compression, download=True)
        self._seed = recipe.run.seed
        self._steps: deque[Step] = deque(maxlen=LONGEST)

    def settle(self, before: Global, after: Global, round_: int) -> Global:
        """The state that clients will reach from `before`: `after` itself where downloads are whole.

        What the coordinator trains of a body is sent to nobody, and stays what it is.
        """
        if not self._pipeline.stages:
            return after
        start, end = client_side(before.state), client_side(after.state)
        residual = {name.removeprefix(RESIDUAL): t for name, t in after.memory.items() if name.startswith(RESIDUAL)}
        delta = subtract(end, start)
        seed = derive_seed(self._seed, "download", round_=round_)
        encoded = self._pipeline.encode(target(delta, residual, "classic"), seed=seed)
        sent = self._pipeline.decode(encoded, shapes_of(delta), seed=seed)
        state = add(start, sent)
        left = {} if self._pipeline.lossless else keep(delta, residual, sent, "classic")
        self._steps.append(Step(digest(start), digest(state), round_, encoded))
        memory = {**after.memory, **{f"{RESIDUAL}{name}": tensor for name, tensor in left.items()}}
        return replace(after, state={**after.state, **state}, memory=memory)

    def steps_from(self, held: str, state: State, limit: int) -> tuple[Step, ...]:
        """The steps that lead from the state that a client holds to `state`; none where they are unknown or too large.

        `limit`: bytes of the whole state.
        """
        chain: list[Step] = []
        end = digest(state)
        for step in reversed(self._steps):
            if step.end != end:
                continue
            chain.insert(0, step)
            end = step.start
            if end == held:
                return tuple(chain) if sum(s.size() for s in chain) < limit else ()
        return ()
