"""Micro-batches through head, body and tail, several on their way at once, and always in the same order."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from fedtune.data.base import Batch
from fedtune.errors import RunError
from fedtune.privacy.noise import NoiseSource, SecureNoise
from fedtune.seeds import derive_seed
from fedtune.split.base import Body, Pending, Smashed, Wants
from fedtune.split.noise import blurred
from fedtune.split.parts import ClientParts
from fedtune.training.forward import count_targets
from fedtune.training.randomness import seeded
from fedtune.training.resident import Resident


@dataclass(slots=True)
class _Passing:
    """A micro-batch on its way."""

    number: int
    batch: Batch
    weight: float
    smashed: Smashed
    """What left the head; its gradient comes back into it."""
    answer: Pending
    back: Pending | None = None


class Pipeline:
    """One client's micro-batches of one share, through a body.

    Guarantees: gradients are those of the whole model, to rounding; they are summed in the order of the micro-batches
    and dropout is drawn for each by its number, so that the result depends neither on how many are on their way nor
    on when the answers come. At most `body.in_flight` are on their way, from head to the end of the way back.
    """

    def __init__(self, resident: Resident, body: Body, seed: int, *, noise: NoiseSource | None = None) -> None:
        self._resident, self._body, self._seed = resident, body, seed
        self._parts = parts_of(resident)
        self._noise = noise or SecureNoise()
        self._number = 0

    def accumulate(self, _: Resident, batches: list[Batch]) -> torch.Tensor:
        """Add the gradient of the mean loss over all targets of `batches`; returns that loss, on the device.

        As `fedtune.training.loop.accumulate_gradient`; raises TransportError where the body does not answer.
        """
        counts = [count_targets(batch) for batch in batches]
        jobs = deque((batch, count / sum(counts)) for batch, count in zip(batches, counts, strict=True) if count)
        wants = self._parts.wants().of_trained() if self._body.trains else self._parts.wants()
        sent: deque[_Passing] = deque()
        turned: deque[_Passing] = deque()
        mean = torch.zeros((), device=self._resident.device)
        while jobs or sent:
            while jobs and len(sent) + len(turned) < self._body.in_flight:
                sent.append(self._send(*jobs.popleft(), wants, train=True))
            turned.append(sent.popleft())
            mean += self._turn(turned[-1], wants)
            # One behind: the body is on the way back of the last one while the tail is busy with the next.
            if jobs and (len(turned) > 1 or not sent):
                self._finish(turned.popleft(), wants)
        while turned:
            self._finish(turned.popleft(), wants)
        return mean

    def outputs(self, _: Resident, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Any]]:
        """Each batch with its output (`loss`, `logits`), in order; nothing is kept for a way back."""
        wants = self._parts.wants(train_head=False, train_prompt=False)
        passing: deque[_Passing] = deque()
        for batch in batches:
            passing.append(self._send(batch, 1.0, wants, train=False))
            if len(passing) == self._body.in_flight:
                yield self._output(passing.popleft())
        while passing:
            yield self._output(passing.popleft())

    def _send(self, batch: Batch, weight: float, wants: Wants, *, train: bool) -> _Passing:
        number, self._number = self._number, self._number + 1
        device = self._resident.device
        on_device = {name: tensor.to(device) for name, tensor in batch.items()}
        keep = train and wants.gradient is not None
        with torch.set_grad_enabled(keep), seeded(device, self._draw("head", number)), self._resident.autocast():
            made = self._parts.head(on_device)
        with torch.set_grad_enabled(keep):
            smashed = Smashed(blurred(made.hidden.float(), self._resident.recipe.split, self._noise), made.mask)
        leaving = Smashed(smashed.hidden.detach(), smashed.mask)
        answer = self._body.forward(number, leaving, wants, train=train)
        return _Passing(number, on_device, weight, smashed, answer)

    def _turn(self, one: _Passing, wants: Wants) -> torch.Tensor:
        """The tail and its way back, and the gradient sent on; returns the weighted loss."""
        device = self._resident.device
        hidden = one.answer.result().to(device).detach().requires_grad_(wants.gradient is not None)
        with seeded(device, self._draw("tail", one.number)), self._resident.autocast():
            loss: torch.Tensor = self._parts.tail(Smashed(hidden, one.smashed.mask), one.batch).loss * one.weight
        loss.backward()  # type: ignore[no-untyped-call]
        if wants.gradient is not None and hidden.grad is not None:
            one.back = self._body.backward(one.number, hidden.grad)
        return loss.detach()

    def _finish(self, one: _Passing, wants: Wants) -> None:
        """The way back through the head."""
        if one.back is None or wants.gradient is None:
            return
        gradient = one.back.result()
        if gradient.shape[1]:
            one.smashed.hidden[:, wants.gradient].backward(gradient.to(self._resident.device))  # type: ignore[no-untyped-call]

    def _output(self, one: _Passing) -> tuple[Batch, Any]:
        hidden = one.answer.result().to(self._resident.device)
        with self._resident.autocast():
            return one.batch, self._parts.tail(Smashed(hidden, one.smashed.mask), one.batch)

    def _draw(self, part: str, number: int) -> int:
        return derive_seed(self._seed, f"dropout {part}", round_=number)


def parts_of(resident: Resident) -> ClientParts:
    """Head and tail of a resident; raises RunError where its model is whole."""
    if resident.parts is None:
        raise RunError("the model is not split; set split.head_layers")
    return resident.parts
