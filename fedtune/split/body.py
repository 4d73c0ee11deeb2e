"""The body: a base model of the middle layers alone, with `transformers`' own masks and position encodings."""

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from fedtune.adapters.base import Attached
from fedtune.models.fingerprint import fingerprint
from fedtune.models.load import from_tensors, refuse_missing
from fedtune.models.quiet import quiet_transformers
from fedtune.models.source import ModelSource
from fedtune.recipe import ModelSection
from fedtune.split.cut import Cut, with_cut
from fedtune.split.family import Family
from fedtune.split.views import NoPositions, PassOn
from fedtune.state import State


class BodyModel(nn.Module):
    """The layers between the cuts. Guarantees: no embedding, final norm, pooler or task head is in it."""

    def __init__(self, model: Any, family: Family, cut: Cut, fingerprint: str, source: str) -> None:
        super().__init__()
        self.model: nn.Module = model
        """A `transformers` base model, frozen, in eval mode: what an adapter is attached to."""
        self.family = family
        self.cut = cut
        self.fingerprint = fingerprint
        """32 hex digits over the body's weights, its config and the cut."""
        self.source = source
        """What the whole model is called."""
        self.width = int(model.config.hidden_size)
        """D, numbers a token."""
        self.attached: Attached | None = None
        """What the coordinator trains of it; None where it is frozen."""
        self.initial: State = {}
        """The trained tensors as they were attached."""
        self._names: dict[str, str] = {}
        self._lock = threading.RLock()

    def train_by(self, attached: Attached) -> None:
        """Let the tensors of `attached`, which sits on `model`, be those that are trained."""
        own = {id(parameter): name for name, parameter in self.named_parameters()}
        self.attached, self.initial = attached, attached.read()
        self._names = {name: own[id(parameter)] for name, parameter in attached.parameters().items()}

    def run_with(
        self, tensors: Mapping[str, torch.Tensor], hidden: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """As `forward`, with `tensors` in the place of the trained ones, by their names in `attached`.

        Guarantees: the body's own tensors stay as they are; it may be called from any thread.
        """
        with self._lock:
            named = {self._names[name]: tensor for name, tensor in tensors.items()}
            output: torch.Tensor = functional_call(self, named, (hidden, mask))
            return output

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Copy trained tensors into place; raises AdapterError where names or shapes differ."""
        if self.attached is not None:
            with self._lock:
                self.attached.load(state)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T, D) after the head's layers becomes (B, T, D) before the tail's.

        `mask` (B, T) is 1 where a token is there; None where all are.
        """
        more: dict[str, Any] = {} if mask is None else {"attention_mask": mask}
        if self.family.task == "causal-lm":
            more["use_cache"] = False
        with self._lock:
            output: torch.Tensor = self.model(**{self.family.hidden: hidden}, **more).last_hidden_state
        return output


def fill_body(
    section: ModelSection, source: ModelSource, family: Family, config: Any, cut: Cut, tensors: Mapping[str, Any]
) -> BodyModel:
    """The body from the tensors of its layers, which are numbered from 0, as `config` says; on the CPU.

    Raises ModelError where a tensor is missing or cannot be read.
    """
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        model, missing = from_tensors(_middle(config, family), source, config, tensors)
    refuse_missing(section, missing)
    model.requires_grad_(False)
    return BodyModel(model, family, cut, with_cut(fingerprint(model, ()), cut), source.name).eval()


def _middle(config: Any, family: Family) -> Any:
    """The family's base model class, with nothing before and behind the layers: not even memory is taken for it."""
    from transformers import AutoModel

    base = AutoModel._model_mapping[type(config)]

    def start(self: Any, config: Any) -> None:
        base.__init__(self, config)
        for name, other in bare(family).items():
            parent, _, last = name.rpartition(".")
            setattr(self.get_submodule(parent), last, other)

    # transformers reads the checkpoints of classes that call themselves its own by their old names too.
    return type(base.__name__, (base,), {"__init__": start, "__module__": base.__module__})


def bare(family: Family) -> dict[str, nn.Module | None]:
    """What stands in the place of everything before and behind the layers, by name in the base model."""
    named: dict[str | None, nn.Module | None] = {
        family.embeddings: PassOn(),
        family.positions: NoPositions(),
        family.dropout: nn.Identity(),
        family.norm: nn.Identity(),
        family.pooler: None,
    }
    return {name: other for name, other in named.items() if name is not None}
