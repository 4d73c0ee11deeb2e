"""Who is there: Flower's node ids and the clients' names, both ways."""

import time
from collections.abc import Callable

from flwr.serverapp import Grid

from fedtune.errors import RunError

_FIRST_NAP_S, _LONGEST_NAP_S = 0.05, 0.5
"""Between two looks at who is there; in Flower's own runtime each look is a request to the SuperLink."""


class Roster:
    """The clients that a grid reaches, by name.

    A grid that knows its clients (the link, the cohort) says so by `name_of(node_id)`; in Flower's own runtime a
    client is called `node-ID`.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._name_of: Callable[[int], str] = getattr(grid, "name_of", lambda node_id: f"node-{node_id}")
        self._ids: dict[str, int] = {}

    def refresh(self) -> list[str]:
        """The names of the clients that are connected now, sorted."""
        self._ids = {self._name_of(node_id): node_id for node_id in self._grid.get_node_ids()}
        return sorted(self._ids)

    def node_id(self, client: str) -> int:
        """The node id of a client that `refresh` named."""
        return self._ids[client]

    def wait_for(self, count: int, *, told: Callable[[int], None], timeout_s: float = float("inf")) -> list[str]:
        """Wait until `count` clients are connected and return their names; `told` hears each change of the number.

        A grid with a virtual clock waits on that (`wait_for_clients`). Raises RunError after `timeout_s`.
        """
        start, seen, nap_s = time.monotonic(), -1, _FIRST_NAP_S
        if hasattr(self._grid, "wait_for_clients"):
            self._grid.wait_for_clients(count)
        while True:
            names = self.refresh()
            if len(names) != seen:
                told(seen := len(names))
            if len(names) >= count:
                return names
            if time.monotonic() - start > timeout_s:
                raise RunError(
                    f"{len(names)} of {count} clients came within {timeout_s:.0f} s; "
                    "start more, or lower federation.min_clients"
                )
            time.sleep(nap_s)
            nap_s = min(_LONGEST_NAP_S, nap_s * 1.5)
