"""The four messages between coordinator and client, before and after they are bytes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from fedtune.audit.ledger.head import Offer
from fedtune.state import State

TaskKind = Literal["train", "evaluate", "gradient"]


@dataclass(frozen=True, slots=True)
class Task:
    """What the coordinator asks of a client."""

    kind: TaskKind
    run: str
    """The run's random id; updates for another are stale."""
    round: int
    recipe: Mapping[str, Any]
    """`Recipe.for_clients()`."""
    recipe_fingerprint: str
    model_fingerprint: str
    base: str
    """`digest(state)`: an update names the state that it started from."""
    state: State
    sketch: Mapping[str, float] = field(default_factory=dict)
    """The coordinator's `Attached.sketch()`; a client whose own differs refuses."""
    shared: State = field(default_factory=dict)
    """Broadcast factors, where the client was not known to hold them."""
    shared_digest: str = ""
    """`digest` of the broadcast factors; empty where there are none."""
    rank: int = 0
    """How many slots of the adapter the client is to train; `state` holds these alone. 0: all of them."""
    shift: State = field(default_factory=dict)
    """What is added to the base weights: the whole shift, or an increment to the one that `shift_from` names."""
    shift_from: str = ""
    """The key of the shift that the increment builds on; empty where `shift` is the whole."""
    shift_key: str = ""
    """The key of the shift to train on; empty where there is none."""
    control: State = field(default_factory=dict)
    """SCAFFOLD's control variate c."""
    chain: tuple[str, ...] = ()
    """Digests of states, oldest first: the client that holds one of them reaches the last by `steps`; then `state` is
    empty. Empty where `state` is whole."""
    chain_rounds: tuple[int, ...] = ()
    """The rounds whose encoded steps lead from each state of `chain` to the next."""
    steps: tuple[Mapping[str, torch.Tensor], ...] = ()
    """The encoded steps."""
    feedback_round: int = 0
    """EF21: the round of the client's last update that counted; 0 for none."""
    ledger: Offer | None = None
    """The head of the run's privacy ledger, and what leads to it; None where the run keeps none."""


@dataclass(frozen=True, slots=True)
class Update:
    """A client's encoded delta (or, for `gradient`, its mean gradients)."""

    run: str
    round: int
    client: str
    base: str
    stages: tuple[str, ...]
    """The stages applied, first to last; they must be the recipe's."""
    tensors: Mapping[str, torch.Tensor]
    examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    rank: int = 0
    """How many slots the client trained; 0: all of them."""
    control: State = field(default_factory=dict)
    """How the client's own control variate changed (SCAFFOLD)."""
    feedback_round: int = 0
    """EF21: the round of the client's copy that the update is the difference to; 0 for zero."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A client's score of a global state on its held-out rows."""

    run: str
    round: int
    client: str
    base: str
    examples: int
    loss_sum: float
    correct: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """A client's clear no: its policy, its data or its machine does not allow the task."""

    run: str
    round: int
    client: str
    reason: str
    """A short stable name: `needs-factors`, `no-data`, `another-model`, `another-recipe`, `other-factors`, `failed`."""
    message: str
    """One sentence for the coordinator's log; holds nothing of the data."""


Message = Task | Update | Evaluation | Refusal
