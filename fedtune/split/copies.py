"""The clients' copies of a trained body: one a client and round, stepped as it steps its own part (SplitFed v1).

SplitFed's server (arXiv 2004.12088, algorithm 1) keeps a server-side model for each client and averages them at the
end of the round; SplitLoRA (arXiv 2407.00952) does the same with adapters.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from fedtune.errors import MissingBody, TransportError
from fedtune.recipe import TrainingSection
from fedtune.split.base import Share
from fedtune.split.body import BodyModel
from fedtune.split.sides import as_body, body_side
from fedtune.state import State, copy_state, subtract
from fedtune.training.optimizer import make_optimizer, set_rate


class BodyCopy:
    """One client's copy of what is trained of the body, with an optimiser of its own.

    Guarantees: until the first pass with `train` nothing is copied. A step is taken before the next pass, or when the
    tensors are read: whoever says it waits for no arithmetic. One thread at a time runs passes and adds gradients.

    Args:
        start: what the round started from, on the body's device; never written to.
        training: the recipe's: optimiser, rates and `max_grad_norm`, which limits this copy's gradient by itself.
        on_last: hears that the last step was said.
    """

    def __init__(
        self,
        body: BodyModel,
        start: Mapping[str, torch.Tensor],
        training: TrainingSection,
        on_last: Callable[["BodyCopy"], None],
    ) -> None:
        self.start = start
        self._body, self._training, self._on_last = body, training, on_last
        self._own: dict[str, nn.Parameter] = {}
        self._optimizer: torch.optim.Optimizer | None = None
        self._due: list[float] = []
        self._lock = threading.Lock()

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """The tensors that are trained, in the order of `add`; none before the first pass with `train`."""
        return tuple(self._own.values())

    def run(self, hidden: torch.Tensor, mask: torch.Tensor | None, *, train: bool) -> torch.Tensor:
        """The body's output, (B, T, D), with this copy's tensors."""
        if train and not self._own:
            self._own = {name: nn.Parameter(tensor.clone()) for name, tensor in self.start.items()}
            self._optimizer = make_optimizer(self._own, self._training)
        self._settle()
        return self._body.run_with(self._own or self.start, hidden, mask)

    def add(self, gradients: Sequence[torch.Tensor | None]) -> None:
        """Add a micro-batch's gradients to those of the step."""
        for parameter, gradient in zip(self._own.values(), gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)

    def step(self, factor: float, *, last: bool) -> None:
        """The gradients added so far are those of one step, at `factor` times the peak rates."""
        with self._lock:
            self._due.append(factor)
        if last:
            self._on_last(self)

    def change(self) -> State:
        """Trained minus start, by the names in the body: fp32, on the CPU."""
        self._settle()
        return subtract(copy_state(self._own or self.start), copy_state(self.start))

    def _settle(self) -> None:
        with self._lock:
            for factor in self._due:
                if self._optimizer is None:
                    break
                set_rate(self._optimizer, factor)
                if self._training.max_grad_norm is not None:
                    clip_grad_norm_(self._own.values(), self._training.max_grad_norm)
                self._optimizer.step()
                self._optimizer.zero_grad(set_to_none=True)
            self._due.clear()


class BodyCopies:
    """Who trains which copy in the round that is open; all methods may be called from any thread.

    Guarantees: a copy lives as long as its share or, once its last step was said, until it is taken, its client opens
    another or the round ends. So there are at most as many as clients were asked.
    """

    def __init__(self, body: BodyModel, training: TrainingSection) -> None:
        self._body, self._training = body, training
        self._round = ("", 0)
        self._start: State | None = None
        self._finished: dict[str, BodyCopy] = {}
        self._changes: dict[str, State] = {}
        self._lock = threading.Lock()

    @property
    def offered(self) -> tuple[str, int, State]:
        """Run, round, and what the copies start from; nothing in it between rounds."""
        with self._lock:
            return *self._round, self._start or {}

    @property
    def held(self) -> int:
        """Copies that wait to be taken."""
        with self._lock:
            return len(self._finished) + len(self._changes)

    def offer(self, run: str, round_: int, state: Mapping[str, torch.Tensor]) -> None:
        """A round begins, from the body's share of a run's `state`; what is left of another one goes."""
        device = next(self._body.parameters()).device
        start = {name: tensor.to(device) for name, tensor in sorted(body_side(state).items())}
        with self._lock:
            self._forget()
            self._round, self._start = (run, round_), start

    def end(self) -> None:
        """The round is over."""
        with self._lock:
            self._forget()

    def open(self, share: Share) -> BodyCopy:
        """A copy for a client's share, in the place of an earlier one; raises TransportError where none is offered."""
        with self._lock:
            if self._start is None or self._round != (share.run, share.round):
                raise TransportError(f"no body is trained in round {share.round} of this run; it may be over")
            self._drop(share.client)
            return BodyCopy(self._body, self._start, self._training, lambda copy: self._finish(share.client, copy))

    def take(self, run: str, round_: int, client: str) -> State:
        """The change of a client's finished copy, by its names in the run's state, which is let go of.

        Raises MissingBody where it is not finished.
        """
        with self._lock:
            here = self._round == (run, round_)
            change, copy = self._changes.pop(client, None), self._finished.pop(client, None)
        if not here or (change is None and copy is None):
            raise MissingBody("the update came without the body that its client trained; run it again")
        return as_body(change if change is not None else copy.change() if copy else {})

    def put(self, client: str, change: State) -> None:
        """The change of a copy that was trained in another process, by the names in the run's state."""
        with self._lock:
            self._changes[client] = body_side(change)

    def drop(self, client: str) -> None:
        """The client is left out of the round."""
        with self._lock:
            self._drop(client)

    def _finish(self, client: str, copy: BodyCopy) -> None:
        with self._lock:
            if copy.start is self._start:
                self._finished[client] = copy

    def _drop(self, client: str) -> None:
        self._finished.pop(client, None)
        self._changes.pop(client, None)

    def _forget(self) -> None:
        self._start = None
        self._finished.clear()
        self._changes.clear()


@contextmanager
def offering(copies: BodyCopies | None, run: str, round_: int, state: State) -> Iterator[None]:
    """A round in which clients may open copies; nothing where no body is trained."""
    if copies is None:
        yield
        return
    copies.offer(run, round_, state)
    try:
        yield
    finally:
        copies.end()
