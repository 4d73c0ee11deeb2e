"""Which way a resident's passes are computed."""

from fedtune.cohort.base import Pass
from fedtune.cohort.lane import Lane
from fedtune.cohort.packed import PackedPass, why_not_packed
from fedtune.cohort.plain_pass import PlainPass
from fedtune.cohort.room import Room
from fedtune.training.resident import Resident


def pass_for(resident: Resident, lane: Lane, room: Room) -> Pass:
    """The pass of a resident whose cohort layers look at `lane`: packed where the model's family is known.

    `room` is for what is kept of rows.
    """
    return PlainPass(resident, lane) if why_not_packed(resident) else PackedPass(resident, lane, room=room)
