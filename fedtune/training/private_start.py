"""`adapter.init = "dp-gradient"`: LoRA-SB's gradients at the base weights, of rows that are clipped, with noise.

Shape suffixes: N = rows in memory, T = positions of a row, I = in features, O = out features.
"""

import torch

from fedtune.data.base import Rows
from fedtune.errors import PrivacyError
from fedtune.privacy.clipping import ROOM, exact
from fedtune.privacy.noise import NoiseSource, SecureNoise, add_noise
from fedtune.privacy.plan import plan_of
from fedtune.recipe import Recipe
from fedtune.state import State
from fedtune.training.gradient import base_gradients
from fedtune.training.order import slices
from fedtune.training.private_checks import check_keeps_apart
from fedtune.training.private_loss import example_losses
from fedtune.training.resident import Resident


def noised_gradients(resident: Resident, rows: Rows, source: NoiseSource | None = None) -> State:
    """The noised sum of the rows' clipped gradients at the base weights, over `adapter.init_rows`: (out, in) by target.

    Every row is read once and clipped over all targets together. All rows, for any choice of a fixed number of them
    moves when one more is there, and would show more of it than one row: `init_rows` is here the public number that a
    client is expected to have, and nothing but a divisor. A row that is not finite counts as zero. fp32, CPU.

    Guarantees: one row more or less moves the sum by at most `privacy.clip`, up to the rounding of fp32, before noise
    of standard deviation `init_noise` x `clip` on every number; a client without rows sends noise like all others.
    Raises PrivacyError where the recipe does not pay for it.
    """
    clip, noise_multiplier = _paid(resident.recipe)
    check_keeps_apart(resident.loaded.model)
    total = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in resident.attached.target_shapes().items()}
    caught: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def catch(name: str, x: torch.Tensor, g: torch.Tensor) -> None:
        if name in caught:
            raise PrivacyError(f"{name!r} is used twice in a pass; leave it out of adapter.targets")
        caught[name] = (x, g)

    with base_gradients(resident, catch) as eager:
        for indices in slices(list(range(len(rows))), resident.recipe.training.batch_size):
            example_losses(eager, rows.batch(indices)).sum().backward()  # type: ignore[no-untyped-call]
            _add_clipped(caught, total, len(indices), clip)
            caught.clear()
    noised = add_noise(total, noise_multiplier * clip, source or SecureNoise())
    return {name: tensor.div_(resident.recipe.adapter.init_rows) for name, tensor in noised.items()}


def _paid(recipe: Recipe) -> tuple[float, float]:
    """The clip and the noise multiplier, as the plan counts them."""
    plan = plan_of(recipe)
    if plan is None or plan.unit != "example" or not plan.start_events:
        raise PrivacyError(
            'noised gradients are for adapter.init = "dp-gradient" under privacy.unit = "example", which pays for them'
        )
    return plan.clip, plan.start_events[0].noise_multiplier


def _add_clipped(caught: dict[str, tuple[torch.Tensor, torch.Tensor]], total: State, count: int, clip: float) -> None:
    squares_N = torch.zeros(count, dtype=torch.float64)
    for name, (x_NTI, g_NTO) in caught.items():
        if len(x_NTI) != count or len(g_NTO) != count:
            raise PrivacyError(f"{name!r} does not keep rows apart in its input; leave it out of adapter.targets")
        for row in range(count):
            squares_N[row] += exact(_weight_gradient(x_NTI[row], g_NTO[row])).square().sum().cpu()
    norms_N = squares_N.sqrt()
    finite_N = norms_N.isfinite()
    factors_N = torch.where(finite_N, clip * ROOM / norms_N.clamp(min=clip * ROOM), 0.0)
    for name, (x_NTI, g_NTO) in caught.items():
        kept = finite_N.to(x_NTI.device)
        weights = factors_N.to(g_NTO)[kept].reshape(-1, *[1] * (g_NTO.ndim - 1))
        total[name] += _weight_gradient(x_NTI[kept], g_NTO[kept] * weights).cpu().double()


def _weight_gradient(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """gᵀ·x (O, I), summed over all leading dimensions."""
    return g.reshape(-1, g.shape[-1]).T @ x.reshape(-1, x.shape[-1])
