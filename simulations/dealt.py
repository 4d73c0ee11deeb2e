"""Jobs that are handed out in groups, whose replies are given back in the order of the jobs."""

import sys
from collections import deque
from collections.abc import Iterator

from simulations.groups import Answers, Cut, Group, Jobs


class Deal:
    """The groups of some jobs, and the replies that are here before it is their turn."""

    def __init__(self, jobs: Jobs, cut: Cut, ahead: int = sys.maxsize) -> None:
        """`cut` says which are together; up to `ahead` groups are handed out before the first's replies are taken."""
        self._jobs, self._waiting = jobs, deque(cut(jobs))
        self._ahead = ahead * max(map(len, self._waiting), default=0)
        self._here: dict[int, bytes] = {}
        self._position = 0

    @property
    def is_done(self) -> bool:
        """Has every reply been taken?"""
        return self._position == len(self._jobs)

    def hand_out(self) -> Group | None:
        """The next group; None where there is none, or enough are out."""
        if self._waiting and self._waiting[0][0] < self._position + self._ahead:
            return self._waiting.popleft()
        return None

    def jobs(self, group: Group) -> Jobs:
        """What a group has to do."""
        return [self._jobs[position] for position in group]

    def bring(self, position: int, reply: bytes) -> None:
        """Put a reply to the others."""
        self._here[position] = reply

    def take(self) -> Iterator[bytes]:
        """The replies whose turn it is."""
        while self._position in self._here:
            reply = self._here.pop(self._position)
            self._position += 1
            yield reply


class Grouped:
    """A workplace of this process that is handed the same groups as workers are: the replies are the same bytes."""

    def __init__(self, answers: Answers, cut: Cut) -> None:
        """`cut` says which jobs are handed out together."""
        self._answers = answers
        self._cut = cut

    def answer_all(self, jobs: Jobs) -> Iterator[bytes]:
        """The replies, in order."""
        deal = Deal(jobs, self._cut)
        while (group := deal.hand_out()) is not None:
            for position, reply in zip(group, self._answers.answer_all(deal.jobs(group)), strict=True):
                deal.bring(position, reply)
                yield from deal.take()
