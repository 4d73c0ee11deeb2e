"""A small body whose tokens see each other, asks for it, and what autograd makes of them by itself."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import nn
from torch.func import functional_call

from fedtune.recipe import TrainingSection
from fedtune.split.asks import Answer, BackwardAsk, Coding, ForwardAsk
from fedtune.split.bits import pack_mask
from fedtune.split.body import BodyModel
from fedtune.split.copies import BodyCopies
from fedtune.split.serve import BodyServer
from fedtune.split.session import Session
from fedtune.split.sides import as_body

WIDTH = 6


class Mixer(nn.Module):
    """Each token sees the mean of the others that are there; rows do not see each other."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(11)
            self.own = nn.Linear(width, width)
            self.others = nn.Linear(width, width)
        self.requires_grad_(False)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        there = torch.ones(hidden.shape[:2]) if mask is None else mask.to(hidden.dtype)
        mean = (hidden * there.unsqueeze(2)).sum(1, keepdim=True) / there.sum(1)[:, None, None]
        return hidden + torch.tanh(self.own(hidden)) * torch.sigmoid(self.others(mean))


class TrainedMixer(Mixer):
    """The same with weights of its own for each client, as far as copies ask for it."""

    def run_with(
        self, tensors: Mapping[str, torch.Tensor], hidden: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        output: torch.Tensor = functional_call(self, dict(tensors), (hidden, mask))
        return output


def copies_of(body: TrainedMixer, training: TrainingSection, run: str, round_: int) -> BodyCopies:
    """Copies of all its weights, offered for a round."""
    copies = BodyCopies(cast("BodyModel", body), training)
    copies.offer(run, round_, as_body(dict(body.named_parameters())))
    return copies


def tensor(seed: int, *shape: int) -> torch.Tensor:
    """Numbers from a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def forward_ask(
    number: int,
    hidden: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    output: tuple[int, int] | None = None,
    gradient: tuple[int, int] | bool | None = True,
    coding: Coding | None = None,
    silent: bool = False,
) -> ForwardAsk:
    """An ask for all tokens unless others are named."""
    everything = (0, hidden.shape[1])
    wanted = (everything if gradient else None) if isinstance(gradient, bool) else gradient
    packed = (coding or Coding()).pack(hidden)
    return ForwardAsk(number, packed, pack_mask(mask), output or everything, wanted, silent)


def backward_ask(number: int, gradient: torch.Tensor) -> BackwardAsk:
    """An ask for the way back, in fp32."""
    return BackwardAsk(number, Coding().pack(gradient))


def by_hand(
    body: nn.Module, hidden: torch.Tensor, mask: torch.Tensor | None, given: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole output, and the gradient by the whole input of (output * given).sum()."""
    leaf = hidden.clone().requires_grad_()
    output = body(leaf, mask)
    (output[:, : given.shape[1]] * given).sum().backward()
    assert leaf.grad is not None
    return output.detach(), leaf.grad


def answers(server: BodyServer, session: Session) -> dict[tuple[int, str], torch.Tensor]:
    """All answers that go out now, by number and way."""
    found = {}
    while (answer := server.next_answer(session)) is not None:
        assert isinstance(answer, Answer)
        found[answer.number, answer.way] = unpacked(answer)
    return found


def unpacked(answer: Answer) -> torch.Tensor:
    """An fp32 answer's tensor."""
    return Coding().unpack(answer.tensor)


def nobody() -> None:
    """Hears nothing."""
