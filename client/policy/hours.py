"""The hours in which a data owner's machine may work: `20:00-06:00`, on the wall clock of a time zone."""

import re
from dataclasses import dataclass
from datetime import datetime, time
from zoneinfo import ZoneInfo

_SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)\s*-\s*([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True, slots=True)
class Hours:
    """From `start` to before `end`, over midnight where `end` is the earlier."""

    start: time
    end: time

    @classmethod
    def parse(cls, text: str) -> "Hours":
        """Hours from `HH:MM-HH:MM`; ValueError with a sentence where they are none."""
        found = _SPAN.fullmatch(text.strip())
        if found is None:
            raise ValueError('must be two times of day as in "20:00-06:00"')
        begin, end = time(int(found[1]), int(found[2])), time(int(found[3]), int(found[4]))
        if begin == end:
            raise ValueError("begin and end at the same minute; take hours out to allow the whole day")
        return cls(begin, end)

    def include(self, moment: datetime, zone: str) -> bool:
        """Is `moment` (aware) within the hours, on the wall clock of `zone` (of this machine where it is empty)?"""
        clock = moment.astimezone(ZoneInfo(zone) if zone else None).time().replace(tzinfo=None)
        if self.start < self.end:
            return self.start <= clock < self.end
        return clock >= self.start or clock < self.end
