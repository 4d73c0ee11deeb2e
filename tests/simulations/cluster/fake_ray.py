"""As much of the `ray` module as fedtune uses, in this process: calls are carried out when they are waited for."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class Ref:
    """A call that was made."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call: Callable[[], Any] | None = call
        self.value: Any = None
        self.error: Exception | None = None

    def settle(self) -> None:
        if self._call is not None:
            call, self._call = self._call, None
            try:
                self.value = call()
            except RayError as error:
                self.error = error
            except Exception as error:
                self.error = RayTaskError(error)


class FakeRay:
    """A cluster; `changed(desk, number)` may put another in the place of an actor's insides."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(
        self,
        *,
        resources: dict[str, float] | None = None,
        nodes: int = 1,
        changed: Callable[[Any, int], Any] = lambda desk, _: desk,
    ) -> None:
        self._resources, self._nodes, self._changed = resources or {"CPU": 2.0}, nodes, changed
        self._draw = random.Random(0)
        self.needs: list[dict[str, float]] = []
        self.given: list[Any] = []
        """All that went into calls."""
        self.came: list[Any] = []
        """All that came out of them."""
        self.alive = 0
        self.most_open = 0

    def cluster_resources(self) -> dict[str, float]:
        return self._resources

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": f"node-{i}", "Alive": True} for i in range(self._nodes)]

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "node-0")

    def remote(self, kind: type) -> Any:
        def options(**needs: float) -> Any:
            def make() -> Any:
                self.needs.append(needs)
                self.alive += 1
                desk = self._changed(kind(), len(self.needs) - 1)
                return SimpleNamespace(open=self._method(desk.open), answer=self._method(desk.answer))

            return SimpleNamespace(remote=make)

        return SimpleNamespace(options=options)

    def wait(self, refs: list[Ref], *, num_returns: int = 1, timeout: float | None = None) -> tuple[list[Ref], ...]:
        """Those that are ready first are drawn by lot."""
        assert len(refs) == len(set(refs))
        self.most_open = max(self.most_open, len(refs))
        ready = self._draw.sample(refs, num_returns)
        for ref in ready:
            ref.settle()
        return ready, [ref for ref in refs if ref not in ready]

    def get(self, ref: Ref) -> Any:
        ref.settle()
        if ref.error is not None:
            raise ref.error
        self.came.append(ref.value)
        return ref.value

    def kill(self, _: Any) -> None:
        self.alive -= 1

    def _method(self, call: Callable[..., Any]) -> Any:
        def remote(*given: Any) -> Ref:
            self.given += given
            return Ref(lambda: call(*given))

        return SimpleNamespace(remote=remote)

    @contextmanager
    def connected(self, _: str) -> Iterator["FakeRay"]:
        yield self
