"""Each client's own loss out of what one pass predicted for all of them.

Shape suffixes: L = clients of the pass, M = targets, V = classes or vocabulary.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy

from fedtune.cohort.base import Predicted


def client_losses(predicted: Predicted, rows: Sequence[int], counts: Sequence[int]) -> torch.Tensor:
    """Each client's summed cross entropy over its count, (L,) fp32 with a graph: its sum's gradient is each one's own.

    `rows`: of each client in the pass; `counts`: how many targets a client's step has in all its passes.
    """
    device = predicted.logits.device
    clients = torch.arange(len(rows), device=device)
    of_row = clients.repeat_interleave(torch.tensor(rows, device=device), output_size=sum(rows))
    of_target_M = of_row[predicted.owners]
    shares_L = 1.0 / torch.tensor(counts, device=device, dtype=torch.float32)
    losses_M = cross_entropy(_exact(predicted.logits), predicted.targets, reduction="none")
    return losses_M.new_zeros(len(rows)).index_add(0, of_target_M, losses_M * shares_L[of_target_M])


def _exact(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
