"""Which way a resident's passes are computed."""

from fedtune.cohort.base import Pass
from fedtune.cohort.lane import Lane
from fedtune.cohort.packed import PackedPass, why_not_packed
from fedtune.cohort.plain_pass import PlainPass
from fedtune.training.resident import Resident


def pass_for(resident: Resident, lane: Lane) -> Pass:
    """The pass of a resident whose cohort layers look at `lane`: packed where the model's family is known."""
    return PlainPass(resident, lane) if why_not_packed(resident) else PackedPass(resident, lane)
