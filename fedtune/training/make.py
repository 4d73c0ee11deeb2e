"""Makes the local step that a recipe asks for."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from fedtune.cohort.private_step import CohortPrivateStep
from fedtune.cohort.room import USUAL, Room
from fedtune.cohort.step import CohortStep
from fedtune.errors import RunError
from fedtune.split.base import OpenBody
from fedtune.split.local import local_bodies
from fedtune.split.step import SplitStep
from fedtune.training.base import LocalStep
from fedtune.training.resident import Resident
from fedtune.training.sequential import SequentialStep

STEPS: Mapping[str, Callable[[Resident, Room], LocalStep]] = MappingProxyType(
    {"none": CohortStep, "client": CohortStep, "example": CohortPrivateStep}
)
"""By `privacy.unit`: under `client` the steps are plain, and the update is clipped as a whole. A client alone takes the
steps of `SequentialStep` where passes can save it nothing; under `example` always those of `PrivateStep`."""


def local_step(resident: Resident, open_body: OpenBody | None = None, room: Room = USUAL) -> LocalStep:
    """The local step of the resident's recipe; of a split model it has its bodies from `open_body`.

    `room` is for what is kept of rows.

    Raises PrivacyError where its noise is not settled, RunError where the model is split and there is no body.
    """
    if resident.parts is not None:
        if open_body is None:
            raise RunError('the model is split, and nothing here offers its body; set split.head_layers = "none"')
        return SplitStep(resident, open_body)
    return STEPS[resident.recipe.privacy.unit](resident, room)


def scoring_step(resident: Resident) -> LocalStep:
    """What the coordinator scores states with: plain passes, through a body of this process where the model is split.

    Raises ModelError where that body cannot be loaded.
    """
    return SplitStep(resident, local_bodies(resident.recipe)) if resident.parts else SequentialStep(resident)
