"""What a client really does in one step, measured: FLOPs by PyTorch's counter, and the peak of the memory it takes."""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fedtune.recipe import Recipe
from fedtune.seeds import derive_seed
from fedtune.split.attach import SplitAttached, attach_split
from fedtune.split.base import Smashed
from fedtune.split.cut import Cut
from fedtune.split.load import load_client_part
from fedtune.split.parts import ClientParts
from tests.split.split_models import CPU, section


def recipe(family: str, cut: Cut, *, kind: str = "full", rows: int = 2, **split: Any) -> Recipe:
    """A recipe of a tiny model of the family."""
    return Recipe.model_validate(
        {
            "model": section(family).model_dump(),
            "adapter": {"kind": kind, "rank": 3, "init": {"full": "weights", "lora": "kaiming"}.get(kind, "random")},
            "split": {"head_layers": cut.head, "tail_layers": cut.tail, **split},
            "training": {"batch_size": rows},
        }
    )


def client_of(recipe: Recipe, cut: Cut) -> tuple[SplitAttached, ClientParts]:
    """The recipe's client part with its adapter, and the views on it."""
    seed = derive_seed(recipe.run.seed, "head")
    loaded = load_client_part(recipe.model, recipe.split, device=CPU, seed=seed)
    attached = attach_split(loaded, recipe, cut)
    return attached, ClientParts.of(attached.model, cut, recipe.model.task, attached.prompts)


def step(parts: ClientParts, batch: dict[str, torch.Tensor]) -> None:
    """A client's half of one pass; the body in between hands on what it is given."""
    wants = parts.wants()
    with torch.set_grad_enabled(wants.gradient is not None):
        smashed = parts.head(batch)
    received = smashed.hidden[:, wants.output].detach().requires_grad_(wants.gradient is not None)
    parts.tail(Smashed(received, smashed.mask), batch).loss.backward()
    if wants.gradient is not None:
        gradient = torch.ones_like(smashed.hidden[:, wants.gradient])
        smashed.hidden[:, wants.gradient].backward(gradient)


class PeakMemory(TorchDispatchMode):
    """Notes the most bytes that tensors made under it take at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._take(tensor.untyped_storage(), given)
        return made

    def _take(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key = storage._cdata
        if key in self._known or key in given:
            return
        self._known.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, storage.nbytes())

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
