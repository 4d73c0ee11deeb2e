"""Answers under watch: who was asked, and what each update was, as the coordinator sees it."""

from collections.abc import Callable, Iterator, Sequence

from fedtune.aggregation import SCHEMES
from fedtune.compression import make_pipeline
from fedtune.recipe import Recipe
from fedtune.seeds import derive_seed
from fedtune.state import Shapes, State
from fedtune.wire import Message, Task, Update, decode
from simulations.groups import Answers

Seen = Callable[[Task, str, State | None], None]
"""Told of a training task, its client, and the decoded update; None where the client refused."""


class Watched:
    """Passes jobs on, and tells of every training task that was answered."""

    def __init__(self, answers: Answers, recipe: Recipe, shapes: Shapes, seen: Seen) -> None:
        self._answers = answers
        self._recipe = recipe
        self._shapes = shapes
        self._seen = seen
        self._pipeline = make_pipeline(recipe.compression)
        self._last: tuple[bytes, Message | None] = (b"", None)

    def answer_all(self, jobs: Sequence[tuple[str, bytes]]) -> Iterator[bytes]:
        """The replies, in order."""
        for (client, raw), reply in zip(jobs, self._answers.answer_all(jobs), strict=True):
            task = self._task(raw)
            if isinstance(task, Task) and task.kind == "train":
                self._seen(task, client, self._update(task, client, reply))
            yield reply

    def _task(self, raw: bytes) -> Message | None:
        if self._last[0] is not raw:
            self._last = (raw, decode(raw))
        return self._last[1]

    def _update(self, task: Task, client: str, reply: bytes) -> State | None:
        update = decode(reply)
        if not isinstance(update, Update):
            return None
        seed = derive_seed(self._recipe.run.seed, "upload", round_=task.round, client=client)
        shapes = sent_shapes(self._recipe, self._shapes, task.round)
        return dict(self._pipeline.decode(update.tensors, shapes, seed=seed))


def sent_shapes(recipe: Recipe, shapes: Shapes, round_: int) -> Shapes:
    """The shapes of what a client sends in a round."""
    scheme, names = SCHEMES[recipe.aggregation.scheme], tuple(shapes)
    trained = scheme.trains(names, round_)
    stays = frozenset(scheme.keeps(names))
    return {name: shapes[name] for name in names if name in trained and name not in stays}
