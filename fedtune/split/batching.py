"""Which micro-batches share a pass through the body: those of several clients, where one pass costs less than two."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fedtune.split.asks import Way
from fedtune.split.entry import Entry


@dataclass(frozen=True, slots=True)
class Job:
    """Work for the body."""

    entry: Entry
    way: Way
    since: float
    """When it came, on the monotonic clock."""

    @property
    def keeps(self) -> bool:
        """Is a gradient wanted of it?"""
        return self.entry.ask.gradient is not None

    @property
    def tokens(self) -> int:
        """Rows times tokens."""
        batch, tokens, _ = self.entry.ask.hidden.shape
        return batch * tokens


@dataclass(frozen=True, slots=True)
class Batching:
    """How micro-batches are put together.

    Those of one client are never: what they come to then depends on nothing but themselves, to the last bit.
    """

    max_tokens: int = 0
    """The tokens of a pass over several micro-batches, padding included; 0 serves each in turn."""
    linger_s: float = 0.002
    """So long a micro-batch that could share a pass waits for other clients'."""
    max_waste: float = 0.25
    """The share of a pass that may be padding."""

    @classmethod
    def on(cls, device: torch.device) -> "Batching":
        """What pays on a device: a GPU has room beside a micro-batch.

        A CPU serves each in turn: shared passes would pay for the smallest alone, and what a client gets would depend,
        in its last bits, on who else is there; an optimiser that divides by small gradients makes much of those bits.
        """
        return cls(max_tokens=16384) if device.type == "cuda" else cls()

    def choose(self, waiting: Sequence[Job], others: int, now: float) -> tuple[list[Job], float]:
        """The jobs to do now, in one pass; or none, and how many seconds until there are some.

        The client that was served longest ago comes first. `others` is how many clients could have more to ask.
        """
        wait_s = float("inf")
        for head in self._heads(waiting):
            group, complete = self._group(head, waiting, others)
            left_s = head.since + self.linger_s - now
            if complete or left_s <= 0:
                return group, 0.0
            wait_s = min(wait_s, left_s)
        return [], wait_s

    @staticmethod
    def _heads(waiting: Sequence[Job]) -> list[Job]:
        first: dict[int, Job] = {}
        for job in waiting:
            first.setdefault(id(job.entry.session), job)
        return sorted(first.values(), key=lambda job: (job.entry.session.served, job.since))

    def _group(self, head: Job, waiting: Sequence[Job], others: int) -> tuple[list[Job], bool]:
        """The jobs that go with this one, and whether waiting for more is of no use."""
        if head.way == "backward":
            return self._same_pass(head, waiting)
        if 2 * head.tokens > self.max_tokens:
            return [head], True
        group = [head]
        clients = {id(head.entry.session)}
        for job in waiting:
            if job.way == "forward" and id(job.entry.session) not in clients and self._fits([*group, job]):
                group.append(job)
                clients.add(id(job.entry.session))
        return group, len(group) >= others or not self._fits([*group, head])

    def _fits(self, group: list[Job]) -> bool:
        if len({job.keeps for job in group}) > 1:
            return False
        longest = max(job.entry.ask.hidden.shape[1] for job in group)
        padded = longest * sum(job.entry.ask.hidden.shape[0] for job in group)
        return padded <= self.max_tokens and padded * (1 - self.max_waste) <= sum(job.tokens for job in group)

    @staticmethod
    def _same_pass(head: Job, waiting: Sequence[Job]) -> tuple[list[Job], bool]:
        graph = head.entry.graph
        if graph is None:
            return [head], True
        group = [job for job in waiting if job.way == "backward" and job.entry.graph is graph]
        return group, len(group) == len(graph.waiting())
