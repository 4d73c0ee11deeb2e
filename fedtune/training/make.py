"""Makes the local step that a recipe asks for."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from fedtune.training.base import LocalStep
from fedtune.training.private import PrivateStep
from fedtune.training.resident import Resident
from fedtune.training.sequential import SequentialStep

STEPS: Mapping[str, Callable[[Resident], LocalStep]] = MappingProxyType(
    {"none": SequentialStep, "client": SequentialStep, "example": PrivateStep}
)
"""By `privacy.unit`: under `client` the steps are plain, and the update is clipped as a whole."""


def local_step(resident: Resident) -> LocalStep:
    """The local step of the resident's recipe; raises PrivacyError where its noise is not settled."""
    return STEPS[resident.recipe.privacy.unit](resident)
