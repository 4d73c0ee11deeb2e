"""The global state that a process holds between tasks, so that it need be sent a small step alone."""

from dataclasses import dataclass, field, replace

from fedtune.compression import Pipeline
from fedtune.errors import MalformedMessage
from fedtune.seeds import derive_seed
from fedtune.state import State, add, digest, shapes_of
from fedtune.wire import Task


@dataclass(slots=True)
class Held:
    """The state of the last task, by its digest."""

    pipeline: Pipeline
    """The recipe's pipeline of downloads."""
    seed: int
    """The run's."""
    state: State = field(default_factory=dict)
    key: str = ""

    def whole(self, task: Task) -> Task | None:
        """The task with its state in place; None where the client holds no state that the steps lead from.

        Raises MalformedMessage where the steps do not lead to the state that the task names.
        """
        if not task.chain:
            if self.pipeline.stages:
                self.state, self.key = dict(task.state), digest(task.state)
            return task
        if self.key not in task.chain:
            return None
        first = task.chain.index(self.key)
        state = self.state
        for step, round_ in list(zip(task.steps, task.chain_rounds, strict=True))[first:]:
            seed = derive_seed(self.seed, "download", round_=round_)
            state = add(state, self.pipeline.decode(step, shapes_of(state), seed=seed))
        if digest(state) != task.chain[-1]:
            raise MalformedMessage("the steps of the global state do not lead to the state that the task names")
        self.state, self.key = state, task.chain[-1]
        return replace(task, state=state)
