"""Scores of private rows, released as sums with Gaussian noise that the budget pays for."""

import torch
from torch.nn.functional import cross_entropy

from fedtune.adapters.shift import Shift
from fedtune.data.base import Batch, Rows
from fedtune.privacy.events import jointly
from fedtune.privacy.noise import NoiseSource, SecureNoise, add_noise
from fedtune.state import State
from fedtune.training.base import Score
from fedtune.training.forward import IGNORED, forward, targets_of
from fedtune.training.memory import within_memory
from fedtune.training.mode import in_mode
from fedtune.training.order import slices
from fedtune.training.resident import Resident

MOST_LOSS = 10.0
"""A row's loss is clipped to [0, this]: e⁻¹⁰ is the chance that such a row was given."""
_MOST = {"examples": 1.0, "correct": 1.0, "loss": MOST_LOSS}
"""The most that one row adds to each sum."""


def noised_score(
    resident: Resident,
    state: State,
    rows: Rows,
    shift: Shift,
    *,
    noise_multiplier: float,
    source: NoiseSource | None = None,
) -> Score:
    """Score `state` on `rows`, by row and with noise: counts, right ones and losses as sums over rows.

    A row of a causal LM counts once, by the mean over its answer tokens, however long it is. Afterwards the sums are
    brought into the range that a score can have, which takes no privacy but biases small ones upwards.

    Guarantees: one row more or less changes the three sums, each over the most that a row can add, by at most √3
    together, and the noise on each has √3 times `noise_multiplier` as its standard deviation: all three are one
    Gaussian mechanism of `noise_multiplier`. Noise is drawn from the operating system's generator.
    """
    sums = _sums(resident, state, rows, shift)
    scale = noise_multiplier / jointly(*(1.0 for _ in _MOST))
    in_units = {name: torch.tensor(sums[name] / most, dtype=torch.float64) for name, most in _MOST.items()}
    noised = add_noise(in_units, scale, source or SecureNoise())
    examples = max(0, round(noised["examples"].item()))
    correct = min(max(0.0, noised["correct"].item()), float(examples))
    return Score(examples, max(0.0, noised["loss"].item() * MOST_LOSS), correct)


def _sums(resident: Resident, state: State, rows: Rows, shift: Shift) -> dict[str, float]:
    totals = torch.zeros(len(_MOST), dtype=torch.float64)
    size = resident.recipe.training.eval_batch_size
    with resident.lock:
        resident.attached.shift_to(shift)
        resident.attached.load(state)
        with (
            in_mode(resident.attached.model, training=False),
            within_memory(resident.device, advice="lower training.eval_batch_size"),
            torch.inference_mode(),
        ):
            for indices in slices(list(range(len(rows))), size):
                totals += _by_row(resident, rows.batch(indices)).cpu().double().sum(dim=0)
    return dict(zip(_MOST, totals.tolist(), strict=True))


def _by_row(resident: Resident, batch: Batch) -> torch.Tensor:
    """What each row adds to the sums, (N, 3), on the device; what is no number counts as the worst."""
    output = forward(resident, batch)
    targets = targets_of(batch).to(output.logits.device)
    logits = output.logits.float()
    if targets.ndim == 1:
        logits, targets = logits[:, None], targets[:, None]
    else:
        logits = logits[:, :-1]
    asked = targets != IGNORED
    count = asked.sum(dim=1).clamp(min=1)
    losses = cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=IGNORED)
    loss = (losses.sum(dim=1) / count).nan_to_num(nan=MOST_LOSS).clamp(0.0, MOST_LOSS)
    right = ((logits.argmax(dim=-1) == targets) & asked).sum(dim=1) / count
    return torch.stack((asked.any(dim=1).float(), right, loss), dim=1)
