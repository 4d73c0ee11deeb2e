"""Ray actors that answer tasks side by side, as `simulations.workers` does on one machine.

Ray pickles what it passes between the processes of its cluster, and unpickles it. What is passed here is text and bytes
alone, but whoever can speak to the cluster can run code on it: this is for simulations on a cluster that is trusted.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from fedtune.errors import RunError
from simulations.cluster.desk import Desk, Setup
from simulations.cluster.packs import join_jobs, split
from simulations.dealt import Deal
from simulations.groups import Cut, Group, Jobs

_AHEAD = 2
"""Groups taken on for each actor before the first of their replies is collected."""
OPEN_S = 600.0
"""How long the actors may take to be placed on their machines and to load."""


class Actors:
    """A few actors that answer groups of tasks, each with a base model of its own.

    Guarantees: replies come in the order of the jobs and are those of one process that is handed the same groups, where
    machines round alike; no more than a few groups of them are held at once. A cluster's size has no say in the groups.
    """

    def __init__(self, ray: Any, setup: Setup, needs: Mapping[str, float], cut: Cut) -> None:
        """`setup.processes` actors, each of which `needs` so much of the cluster (`num_cpus`, `num_gpus`).

        Raises RunError where they find no place, cannot load, or hold another model or other rows than one another.
        """
        self._ray, self._cut = ray, cut
        made = ray.remote(Desk).options(**needs)
        self._actors = [made.remote() for _ in range(setup.processes)]
        try:
            self._prints = self._open(setup.to_text())
        except BaseException:
            self.close()
            raise

    def check(self, print_: str) -> None:
        """Raises RunError where an actor holds another model or other rows than a machine with this print."""
        for host, other in self._prints:
            if other != print_:
                raise RunError(
                    f"{host} has another model, other rows or another fedtune than this machine: bring the same there"
                )

    def answer_all(self, jobs: Jobs) -> Iterator[bytes]:
        """The replies, in order; raises RunError where an actor has died."""
        deal = Deal(jobs, self._cut, _AHEAD * len(self._actors))
        idle, running = deque(self._actors), dict[Any, tuple[Any, Group]]()
        try:
            while not deal.is_done:
                while idle and (group := deal.hand_out()) is not None:
                    actor = idle.popleft()
                    running[actor.answer.remote(join_jobs(deal.jobs(group)))] = actor, group
                (ready,), _ = self._ray.wait(list(running))
                actor, group = running.pop(ready)
                for position, reply in zip(group, split(self._get(ready)), strict=True):
                    deal.bring(position, reply)
                idle.append(actor)
                yield from deal.take()
        finally:
            if running:
                self._ray.wait(list(running), num_returns=len(running))

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            self._ray.kill(actor)

    def __enter__(self) -> "Actors":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self, setup: str) -> list[tuple[str, str]]:
        refs = [actor.open.remote(setup) for actor in self._actors]
        ready, late = self._ray.wait(refs, num_returns=len(refs), timeout=OPEN_S)
        if late:
            raise RunError(
                f"{len(late)} of {len(refs)} Ray actors are not ready after {OPEN_S:.0f} s; ask for fewer by --workers"
            )
        prints = []
        for told in (json.loads(self._get(ref)) for ref in ready):
            if "error" in told:
                raise RunError(f"on {told['host']}: {told['error']}")
            prints.append((str(told["host"]), str(told["print"])))
        return prints

    def _get(self, ref: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(ref)
        except errors.RayTaskError as error:
            cause = (str(error.cause).splitlines() or ["for no stated reason"])[0]
            raise RunError(
                f"a Ray actor failed ({cause}); see that every machine has the same fedtune, and go on with --resume"
            ) from error
        except errors.RayError as error:
            raise RunError(
                "a Ray actor died: its machine is gone or lacks memory; go on with --resume and fewer --workers"
            ) from error
