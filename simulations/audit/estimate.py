"""How long an audit will take, from the time of one forward and backward pass on this machine."""

import time

from fedtune.audit.canaries.evidence import gradient_of
from fedtune.training.resident import resident
from simulations.audit.probe import SUMS, steps_of
from simulations.audit.run import Prepared
from simulations.groups import in_a_group

_BATCHED = 0.4
"""Of a row's time alone, what it takes among others."""


def seconds_expected(prepared: Prepared, workers: int) -> float:
    """Training passes of all rounds, the attack's own and the direct tests', each as long as the one timed here."""
    gradients = prepared.canaries.work + _probed_rows(prepared) if prepared.plan.unit == "example" else 0
    return _one_pass(prepared) * (_BATCHED * _trained_rows(prepared) / workers + gradients)


def _one_pass(prepared: Prepared) -> float:
    home = resident(prepared.recipe)
    batch = prepared.rows.batch([0])
    gradient_of(home, home.initial, batch)  # the first one is slower than all others
    started = time.perf_counter()
    gradient_of(home, home.initial, batch)
    return time.perf_counter() - started


def _probed_rows(prepared: Prepared) -> float:
    """Rows whose gradients the direct tests take one by one, of as many clients as share passes."""
    lot = in_a_group(prepared.recipe, len(prepared.canaries.names))
    return lot * (steps_of(lot) + SUMS) * len(prepared.rows) * prepared.plan.sampling_rate


def _trained_rows(prepared: Prepared) -> float:
    """Rows that all clients pass over in all rounds."""
    recipe, plan = prepared.recipe, prepared.plan
    real = [name for name in prepared.canaries.names if name not in prepared.canaries.coins]
    clients = recipe.federation.clients_per_round or len(real)
    if plan.sampler == "poisson-clients":
        clients = round(clients * plan.sampling_rate)
    rows = len(prepared.rows)
    if plan.unit == "example":
        return clients * plan.rounds * plan.steps * rows * plan.sampling_rate
    steps = recipe.training.steps
    each = rows * recipe.training.epochs if steps is None else steps * recipe.training.batch_size
    return float(clients * plan.rounds * each)
