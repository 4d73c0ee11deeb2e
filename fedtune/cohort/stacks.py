"""The tensors of several clients as rows of matrices: values, gradients, and what an optimiser keeps.

Shape suffixes: K = clients, L = clients of a pass, P = all columns, Q = trained columns.
"""

from collections.abc import Mapping, Sequence

import torch

from fedtune.cohort.columns import Columns
from fedtune.errors import TrainingError


class Stacks:
    """A row a client. What happens in one row happens in no other."""

    def __init__(self, columns: Columns, clients: int, like: torch.Tensor) -> None:
        """`like` has the tensors' device and dtype."""
        self.columns = columns
        self.values_KP = like.detach().new_zeros(clients, columns.total)
        self.gradients_KQ = like.detach().new_zeros(clients, columns.trained)

    def put(self, client: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy a client's tensors into its row."""
        for name in self.columns.places:
            self.columns.view(self.values_KP[client : client + 1], name)[0].copy_(tensors[name].detach())

    def repeat(self, client: int) -> None:
        """Start a client from what the one before it has now."""
        self.values_KP[client].copy_(self.values_KP[client - 1])

    def of(self, client: int) -> dict[str, torch.Tensor]:
        """A client's tensors, trained or not, as views of its row."""
        views = self.columns.views(self.values_KP[client : client + 1])
        return {name: view[0] for name, view in views.items()}

    def steered(self, client: int) -> dict[str, torch.Tensor]:
        """A client's trained tensors as views, each with a view of its gradient as `.grad`."""
        values, row_1Q = self.of(client), self.gradients_KQ[client : client + 1]
        for name in self.columns.names:
            values[name].grad = self.columns.view(row_1Q, name)[0]
        return {name: values[name] for name in self.columns.names}

    def leaves(self, clients: Sequence[int]) -> dict[str, torch.Tensor]:
        """What a pass of these clients (a client may be in it twice) works on, (L, *shape) by name.

        The trained ones require a gradient. Nothing is to be written to them; they hold until the next step.
        """
        rows_LP = self.values_KP if self._all(clients) else self.values_KP.index_select(0, self._index(clients))
        leaves = {name: view.detach() for name, view in self.columns.views(rows_LP).items()}
        for name in self.columns.names:
            leaves[name].requires_grad_(True)
        return leaves

    def collect(self, clients: Sequence[int], leaves: Mapping[str, torch.Tensor]) -> None:
        """Add the gradients of a pass's leaves to its clients' rows; raises TrainingError where one has none."""
        index = None if self._all(clients) else self._index(clients)
        for name in self.columns.names:
            gradient = leaves[name].grad
            if gradient is None:
                raise TrainingError(f"{name!r} has no part in what the model predicts")
            start = self.columns.places[name][0]
            flat_LS = gradient.reshape(len(clients), -1)
            sums_KS = self.gradients_KQ[:, start : start + flat_LS.shape[1]]
            if index is None:
                sums_KS += flat_LS
            else:
                sums_KS.index_add_(0, index, flat_LS)

    def _all(self, clients: Sequence[int]) -> bool:
        """Are these all clients, in order?"""
        return list(clients) == list(range(len(self.values_KP)))

    def _index(self, clients: Sequence[int]) -> torch.Tensor:
        return torch.tensor(clients, device=self.values_KP.device)
