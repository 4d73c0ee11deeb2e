"""Gradients by row out of shared passes: each row meets a copy of its client's tensors, whose gradient is its own.

What a pass does for clients it does here for rows: each row is a part by itself, with tensors of its own.
"""

from collections.abc import Sequence

import torch

from fedtune.cohort.group import Item
from fedtune.cohort.losses import client_losses
from fedtune.cohort.stacks import Stacks
from fedtune.cohort.works import Works
from fedtune.data.base import Rows
from fedtune.errors import PrivacyError
from fedtune.privacy.clipping import Gradients
from fedtune.training.forward import IGNORED, targets_of


def row_items(works: Works, client: int, rows: Rows, indices: Sequence[int]) -> list[Item]:
    """Rows of a client that have something to predict, one an item."""
    if not indices:
        return []
    targets = [1] * len(indices)
    if works.resident.recipe.model.task == "causal-lm":
        targets = (targets_of(rows.batch(indices)) != IGNORED).sum(dim=1).tolist()
    tokens = works.forward.tokens((rows, indices))
    found = zip(indices, tokens, targets, strict=True)
    return [Item(client, (rows, [index]), size, size, count) for index, size, count in found if count]


def row_gradients(works: Works, stacks: Stacks, items: Sequence[Item]) -> Gradients:
    """The gradient of each row's own loss by each trained tensor of its client, (items, *shape), from one pass.

    A row's loss is the cross entropy of its class, or the mean over its own answer tokens. Its gradient is a derivative
    by numbers that no other row meets, so nothing of another row is in it where the pass keeps rows apart. The cohort
    layers are in place. Raises PrivacyError where a trained tensor has no part in what is predicted.
    """
    clients = [item.client for item in items]
    leaves = works.lane.tensors = stacks.leaves(clients)
    predicted = works.forward.logits([item.part for item in items])
    losses = client_losses(predicted, [1] * len(items), [item.targets for item in items])
    losses.sum().backward()  # type: ignore[no-untyped-call]
    return {name: _gradient(name, leaves[name]) for name in stacks.columns.names}


def _gradient(name: str, leaf: torch.Tensor) -> torch.Tensor:
    if leaf.grad is None:
        raise PrivacyError(
            f"{name!r} has no part in what the model predicts, so it has no gradient to clip by row; leave its module "
            "out of adapter.targets, or set adapter.head = false"
        )
    return leaf.grad
