"""A client's bench: the recipe it was given, the resident model, and the checks that both sides mean the same."""

import math
from dataclasses import dataclass

from pydantic import ValidationError

from client.held import Held
from fedtune.adapters.shift import NO_SHIFT, Shift
from fedtune.aggregation import SCHEMES, Frame
from fedtune.aggregation.frame import frame_of
from fedtune.aggregation.scheme import Scheme
from fedtune.cohort.room import USUAL, Room
from fedtune.compression import Pipeline, make_pipeline
from fedtune.compression.feedback import Feedback, feedback_of
from fedtune.errors import AdapterError, MalformedMessage, ModelError
from fedtune.recipe import Recipe
from fedtune.split.base import OpenBody
from fedtune.state import digest
from fedtune.training.base import LocalStep
from fedtune.training.make import local_step
from fedtune.training.resident import Resident, resident
from fedtune.wire import Task


class NeedsFactors(AdapterError):
    """The task builds on broadcast factors that this client does not hold yet."""


@dataclass(slots=True)
class Bench:
    """Everything that stays between the rounds of one recipe."""

    recipe: Recipe
    recipe_fingerprint: str
    resident: Resident
    step: LocalStep
    pipeline: Pipeline
    frame: Frame
    scheme: Scheme
    feedback: Feedback
    held: Held
    shared_digest: str = ""
    shift: Shift = NO_SHIFT
    """What has been added to the base weights, as far as this process knows."""

    def fits(self, task: Task) -> bool:
        """Was this bench set up for the recipe of `task`?"""
        return task.recipe_fingerprint == self.recipe_fingerprint

    def hold(self, task: Task) -> Task:
        """Put the frozen factors of `task` in place, or see that the recomputed ones are the coordinator's.

        Returns the task with its whole state, whatever it was sent of it. Raises NeedsFactors where something has to be
        sent whole, AdapterError where factors differ.
        """
        self._hold_shift(task)
        whole = self.held.whole(task)
        if whole is None:
            raise NeedsFactors("the task builds on a global state that this client does not hold")
        self._hold_factors(task)
        return whole

    def _hold_factors(self, task: Task) -> None:
        if task.shared_digest and task.shared_digest != self.shared_digest:
            if task.shared:
                self.resident.attached.load_shared(task.shared)
            elif digest(self.resident.attached.shared()) != task.shared_digest:
                raise NeedsFactors("the task builds on broadcast factors that this client does not hold")
            self.shared_digest = task.shared_digest
        elif self.resident.attached.shared_origin == "recomputed":
            _compare(self.resident.attached.sketch(), dict(task.sketch))

    def _hold_shift(self, task: Task) -> None:
        if task.shift_key == self.shift.key:
            return
        if not task.shift_from:
            shift = Shift(dict(task.shift), task.shift_key)
        elif task.shift_from == self.shift.key:
            shift = self.shift.then(task.shift)
        else:
            raise NeedsFactors("the task builds on a change of the base weights that this client does not hold")
        if shift.key != task.shift_key:
            raise MalformedMessage("the task's change of the base weights is not the one that it names")
        self.shift = shift


def set_up(
    task: Task,
    *,
    model: str | None = None,
    open_body: OpenBody | None = None,
    room: Room = USUAL,
) -> Bench:
    """A bench for the recipe of `task`, on the base model that it names (or the local one that `model` names).

    Where the recipe splits the model, its body is had from `open_body`. `room` is for what is kept of rows.

    Raises MalformedMessage, ModelError or AdapterError where coordinator and client would not train the same thing.
    """
    recipe = read_recipe(task)
    if model is not None:
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"name": model})})
    home = resident(recipe)
    if home.loaded.fingerprint != task.model_fingerprint:
        raise ModelError(
            f"the base model {recipe.model.name!r} here is not the coordinator's (fingerprints differ); "
            "install the same model, or name it with --model"
        )
    pipeline = make_pipeline(recipe.compression)
    return Bench(
        recipe=recipe,
        recipe_fingerprint=task.recipe_fingerprint,
        resident=home,
        step=local_step(home, open_body, room),
        pipeline=pipeline,
        frame=frame_of(home.attached, recipe.adapter),
        scheme=SCHEMES[recipe.aggregation.scheme],
        feedback=feedback_of(recipe.compression, recipe.aggregation.scheme, lossless=pipeline.lossless),
        held=Held(make_pipeline(recipe.compression, download=True), recipe.run.seed),
    )


def read_recipe(task: Task) -> Recipe:
    """The recipe of a task as the coordinator sent it; raises MalformedMessage where it is read differently here."""
    try:
        recipe = Recipe.from_coordinator(dict(task.recipe))
    except ValidationError as error:
        raise MalformedMessage("the coordinator's recipe is not one that this version of fedtune can read") from error
    if recipe.fingerprint() != task.recipe_fingerprint:
        raise MalformedMessage("coordinator and client read the recipe differently; run the same fedtune on both")
    return recipe


def _compare(own: dict[str, float], given: dict[str, float]) -> None:
    if own.keys() != given.keys() or any(
        not math.isclose(own[name], given[name], rel_tol=1e-3, abs_tol=1e-3) for name in own
    ):
        raise AdapterError(
            "the frozen factors computed here are not the coordinator's; "
            "set adapter.init = 'random', or use the same torch build on both sides"
        )
