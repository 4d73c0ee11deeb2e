"""Apple's pfl-research in the shape of its PyTorch benchmarks: one process, one model, datasets made for each user."""

from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.simulators.bare import Bench
from benchmarks.simulators.case import Case
from benchmarks.simulators.measure import Mark, Measured, mark, peak_mb, plain


def run(case: Case, folder: Path) -> Measured:
    """Its FederatedAveraging on its SimulatedBackend, every user in every round, weighted by rows."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByDatapoints
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.internal.ops import pytorch_ops
    from pfl.internal.ops.distributed import NotDistributedContext
    from pfl.model.pytorch import PyTorchModel

    if pytorch_ops.distributed is None:
        pytorch_ops.distributed = NotDistributedContext()

    bench = Bench(case.recipe(folder))
    bench.load(bench.start())
    lr = bench.recipe.training.lr
    model = PyTorchModel(
        _Wrapped(bench),
        lambda _, lr: torch.optim.AdamW(bench.trained.values(), lr=lr, weight_decay=0.0),
        torch.optim.SGD(bench.trained.values(), lr=1.0),
    )
    users = _users(bench)
    marks = [mark()]
    with redirect_stdout(StringIO()):  # it prints a table a round
        FederatedAveraging().run(
            backend=SimulatedBackend(users, users, postprocessors=[WeightByDatapoints()]),
            model=model,
            algorithm_params=NNAlgorithmParams(
                central_num_iterations=case.rounds,
                evaluation_frequency=10**9,
                train_cohort_size=case.clients,
                val_cohort_size=0,
            ),
            model_train_params=NNTrainHyperParams(
                local_num_epochs=1, local_learning_rate=lr, local_batch_size=case.rows, local_max_grad_norm=None
            ),
            model_eval_params=None,
            callbacks=[_marks(marks)],
        )
    state = {name: parameter.detach().clone() for name, parameter in bench.trained.items()}
    return Measured(tuple(marks), plain(state), peak_mb())


class _Wrapped(nn.Module):
    """The model with the two methods that pfl asks for."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.model, self.extra = bench.model, bench.home.extra

    def loss(self, **batch: torch.Tensor) -> torch.Tensor:
        """The model's own."""
        loss: torch.Tensor = self.model(**batch, **self.extra).loss
        return loss

    def metrics(self, **_: torch.Tensor) -> dict[str, Any]:
        """Nothing is measured, though pfl asks for something in its first round."""
        from pfl.metrics import Weighted

        return {"nothing": Weighted.from_unweighted(0.0)}


def _users(bench: Bench) -> Any:
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset

    rounds = dict.fromkeys(bench.names, 0)

    class User(Dataset):  # type: ignore[misc]
        """A user's rows in the order that all sides take."""

        def __init__(self, name: str) -> None:
            rounds[name] += 1
            super().__init__(raw_data=[torch.empty(len(bench.rows(name)))], user_id=name)
            self._name = name

        def iter(self, batch_size: int | None) -> Iterator[Any]:
            yield from bench.batches(self._name, rounds[self._name])

    at = iter(bench.names * (10**6))
    return FederatedDataset(User, lambda: next(at))


def _marks(marks: list[Mark]) -> Any:
    from pfl.callback.base import TrainingProcessCallback

    class Marks(TrainingProcessCallback):  # type: ignore[misc]
        def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):  # type: ignore[no-untyped-def]
            from pfl.metrics import Metrics

            marks.append(mark())
            return False, Metrics()

    return Marks()
