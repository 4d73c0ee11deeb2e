"""A client's share of a round: what it starts from, what it trains and keeps, and what it sends, by the scheme."""

from dataclasses import dataclass

import torch

from client.bench import Bench
from client.upload import upload
from fedtune.adapters.slots import Slots, choose_slots, mask, widen
from fedtune.aggregation import SCHEMES
from fedtune.aggregation.hetlora import pruned_rank
from fedtune.compression import make_pipeline
from fedtune.compression.feedback import feedback_of
from fedtune.data.base import Rows
from fedtune.errors import AdapterError, RunError
from fedtune.privacy.local import released
from fedtune.privacy.plan import plan_of
from fedtune.recipe import Recipe
from fedtune.runs.kept import OWN, Keep
from fedtune.seeds import derive_seed
from fedtune.state import State, subtract
from fedtune.training.base import Assignment, LocalResult
from fedtune.training.scaffold import control_change
from fedtune.wire import Task, Update

_CONTROL, _RANK = "control/", "rank"
"""What a client may keep beside its own adapter: its control variate, the rank that it came down to."""


class KeepsToItself:
    """What one process keeps for its clients, and how high a rank it takes on."""

    def __init__(self, keep: Keep | None, max_rank: int | None) -> None:
        self._keep = keep
        self._max_rank = max_rank

    def kept(self, bench: Bench, task: Task, client: str, *, before: int) -> State:
        """What the client kept before a round; empty where the recipe keeps nothing."""
        return self._folder().read(task.run, client, before=before) if keeps_something(bench) else {}

    def keep(self, bench: Bench, task: Task, client: str, state: State) -> None:
        """Keep `state` as what was there after the task's round."""
        about = {"recipe": dict(task.recipe), "model_fingerprint": task.model_fingerprint}
        self._folder().write(task.run, client, task.round, state, about)

    def rank(self, bench: Bench, task: Task, kept: State) -> int:
        """How many slots the client trains: what the task, its own limit and its earlier pruning allow."""
        total = bench.frame.slots
        asked = task.rank or total
        limit = min(self._max_rank or total, int(kept[_RANK].item()) if _RANK in kept else total)
        if asked > limit and bench.frame.form not in bench.scheme.heterogeneous_for:
            raise AdapterError(
                f"the task trains rank {asked} and this client goes up to {limit}: "
                f'aggregation.scheme = "{bench.recipe.aggregation.scheme}" needs the same rank everywhere'
            )
        return min(asked, limit)

    def _folder(self) -> Keep:
        if self._keep is None:
            raise RunError("this recipe lets clients keep tensors of their own, and this client has no folder for them")
        return self._keep


def keeps_something(bench: Bench) -> bool:
    """Does the recipe have clients keep anything between rounds?"""
    return keeps_tensors(bench.recipe, tuple(bench.frame.shapes))


def keeps_tensors(recipe: Recipe, names: tuple[str, ...]) -> bool:
    """Does a recipe whose adapter has tensors of these names have clients keep anything between rounds?"""
    section, lossless = recipe.aggregation, make_pipeline(recipe.compression).lossless
    own = bool(SCHEMES[section.scheme].keeps(names))
    feedback = feedback_of(recipe.compression, section.scheme, lossless=lossless)
    return own or recipe.training.scaffold or bool(section.prune) or feedback != "none"


def slots_of(bench: Bench, task: Task, client: str, rank: int) -> Slots:
    """The slots of a client of `rank`; the coordinator draws the same."""
    frame, seed = bench.frame, bench.recipe.run.seed
    return choose_slots(frame.form, frame.slots, rank, seed=seed, round_=task.round, client=client)


def start_state(bench: Bench, task: Task, client: str, slots: Slots, kept: State) -> State:
    """The whole state that the client starts from: what it was sent, and its own tensors in the place of the rest."""
    frame = bench.frame
    sent = widen(task.state, frame.shapes, frame.axes, slots_of(bench, task, client, task.rank or frame.slots))
    if slots is not None:
        sent = {name: t * mask(frame.shapes[name], frame.axes.get(name, ()), slots) for name, t in sent.items()}
    own = {name.removeprefix(OWN): tensor for name, tensor in kept.items() if name.startswith(OWN)}
    initial = bench.resident.initial
    return {name: sent.get(name, own.get(name, initial[name])) for name in frame.shapes}


@dataclass(frozen=True, slots=True)
class Share:
    """One client's round, ready to be trained and then sent."""

    assignment: Assignment
    kept: State
    control: State
    """The client's own control variate before the round."""

    @classmethod
    def of(cls, bench: Bench, task: Task, client: str, rows: Rows, own: KeepsToItself) -> "Share":
        """Prepare a client's round; raises AdapterError, RunError."""
        kept = own.kept(bench, task, client, before=task.round)
        slots = slots_of(bench, task, client, own.rank(bench, task, kept)) if bench.frame.slots else None
        names = tuple(bench.frame.shapes)
        control = {n.removeprefix(_CONTROL): t for n, t in kept.items() if n.startswith(_CONTROL)}
        zero = {name: tensor.new_zeros(tensor.shape) for name, tensor in task.control.items()}
        control = {**zero, **control} if task.control else {}
        assignment = Assignment(
            client=client,
            round=task.round,
            state=start_state(bench, task, client, slots, kept),
            rows=rows,
            seed=derive_seed(bench.recipe.run.seed, "train", round_=task.round, client=client),
            trained=bench.scheme.trains(names, task.round),
            slots=slots,
            shift=bench.shift,
            correction=subtract(task.control, control) if task.control else {},
            run=task.run,
        )
        return cls(assignment, kept, control)

    def update(self, bench: Bench, task: Task, result: LocalResult, own: KeepsToItself) -> Update:
        """What the client sends of its result; what it keeps is on the disk before this returns.

        Under privacy neither a count of rows nor a metric goes along, and an update that no noise covers yet is clipped
        and noised here, before it is encoded.
        """
        plan = plan_of(bench.recipe)
        scheme, frame, start = bench.scheme, bench.frame, self.assignment.state
        trained = self.assignment.trained or tuple(start)
        stays = frozenset(scheme.keeps(tuple(start)))
        state = {**result.state, **scheme.finish_client(start, result.state, frame, bench.recipe.aggregation)}
        sent = {name: state[name] - start[name] for name in trained if name not in stays}
        change: State = {}
        to_keep = {f"{OWN}{name}": state[name] for name in (state if stays else ())}
        if task.control:
            after, change = control_change(self.control, task.control, start, result.state, result.rates)
            to_keep |= {f"{_CONTROL}{name}": tensor for name, tensor in after.items()}
        to_keep |= self._pruned(bench, result)
        slots = self.assignment.slots
        made = upload(bench, task, result.client, released(sent, plan), slots, self.kept)
        to_keep |= made.kept
        if keeps_something(bench):
            own.keep(bench, task, result.client, to_keep)
        return Update(
            run=task.run,
            round=task.round,
            client=result.client,
            base=task.base,
            stages=bench.pipeline.names,
            tensors=made.tensors,
            examples=result.examples if plan is None else 1,
            metrics=result.metrics if plan is None else {},
            rank=len(slots) if slots is not None else 0,
            control=change,
            feedback_round=made.round,
        )

    def _pruned(self, bench: Bench, result: LocalResult) -> State:
        prune = bench.recipe.aggregation.prune
        if not prune:
            return {}
        slots = self.assignment.slots
        rank = len(slots) if slots is not None else bench.frame.slots
        after = pruned_rank(self.assignment.state, result.state, bench.frame, rank, prune)
        return {_RANK: torch.tensor([after], dtype=torch.float32)}


def personal_state(bench: Bench, task: Task, client: str, own: KeepsToItself) -> State:
    """The whole state that a client is to evaluate: the global one, with its own tensors where it keeps some."""
    kept = own.kept(bench, task, client, before=task.round + 1)
    slots = slots_of(bench, task, client, own.rank(bench, task, kept)) if bench.frame.slots else None
    return start_state(bench, task, client, slots, kept)
