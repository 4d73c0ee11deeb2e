"""Labels read off the gradients at the body's output, though no label ever leaves its client."""

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import cosine_similarity, normalize

from fedtune.recipe.split import SplitSection
from fedtune.split.activations import roundtrip
from fedtune.split.base import Smashed
from fedtune.split.parts import ClientParts


def gradients(
    parts: ClientParts, outputs: Smashed, labels: torch.Tensor, split: SplitSection | None = None
) -> torch.Tensor:
    """The gradient of each row's own loss by the body's output, (M, T·D); as it leaves where `split` is given."""
    hidden = outputs.hidden.detach().requires_grad_()
    loss = parts.tail(Smashed(hidden, outputs.mask), {"labels": labels}).loss
    (found,) = torch.autograd.grad(loss, hidden)
    if split is not None:
        found = roundtrip(found, split.activations, split.topk)
    return found.detach().flatten(1)


def match(parts: ClientParts, outputs: Smashed, received: torch.Tensor, classes: int) -> torch.Tensor:
    """For each row the label whose gradient, through the tail that the coordinator knows, points most alike, (M,).

    The coordinator made the outputs itself, and gave out the tail at the round's start.
    """
    rows = len(received)
    scores = [
        cosine_similarity(gradients(parts, outputs, torch.full((rows,), label)), received, dim=1)
        for label in range(classes)
    ]
    return torch.stack(scores).argmax(dim=0)


def cluster(received: torch.Tensor, classes: int, seed: int = 0) -> torch.Tensor:
    """As many groups of gradients as there are classes, by direction alone; nothing of the tail is known."""
    directions = normalize(received, dim=1).numpy().astype(np.float64)
    _, groups = kmeans2(directions, classes, minit="++", seed=seed, iter=30)
    return torch.from_numpy(groups.astype(np.int64))


def best_naming(groups: torch.Tensor, labels: torch.Tensor, classes: int) -> float:
    """The share of rows that are right when each group is given the label that makes most of them right."""
    counts = np.zeros((classes, classes))
    np.add.at(counts, (groups.numpy(), labels.numpy()), 1)
    rows, columns = linear_sum_assignment(-counts)
    return float(counts[rows, columns].sum() / len(labels))


def naming_by_chance(groups: torch.Tensor, labels: torch.Tensor, classes: int, draws: int = 20) -> float:
    """What `best_naming` gives where groups of the same sizes have nothing to do with the labels: a mean of draws."""
    generator = torch.Generator().manual_seed(0)
    shuffled = (labels[torch.randperm(len(labels), generator=generator)] for _ in range(draws))
    return sum(best_naming(groups, one, classes) for one in shuffled) / draws
