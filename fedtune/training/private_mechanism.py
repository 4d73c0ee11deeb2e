"""The numbers of one private step, from the plan that is accounted, and where its chance comes from."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fedtune.errors import PrivacyError
from fedtune.privacy.clipping import Clipping, Gradients, clipped_sum
from fedtune.privacy.noise import NoiseSource, SecureNoise, add_noise
from fedtune.privacy.plan import plan_of
from fedtune.privacy.rows import PoissonRows, RowSampler
from fedtune.recipe import Recipe
from fedtune.state import State


@dataclass(frozen=True, slots=True)
class Mechanism:
    """A Gaussian mechanism on a Poisson sample of rows.

    Guarantees: every number in it is public, and those that the plan counts are the plan's.
    """

    steps: int
    """Of one round."""
    sampling_rate: float
    """The probability with which each row is in a step."""
    clip: float
    clipping: Clipping
    noise_multiplier: float
    divisor: int
    """What the noised sum is divided by: the rows that a step is meant for, whatever their number was."""
    noise: NoiseSource
    rows: RowSampler

    @classmethod
    def of(cls, recipe: Recipe, noise: NoiseSource | None = None, rows: RowSampler | None = None) -> "Mechanism":
        """The mechanism of a recipe; raises PrivacyError where its unit is another or its noise is open."""
        plan = plan_of(recipe)
        if plan is None or plan.unit != "example":
            raise PrivacyError(
                f'private steps are for privacy.unit = "example", and unit is "{recipe.privacy.unit}"; set it, or take '
                "plain steps"
            )
        return cls(
            steps=plan.steps,
            sampling_rate=plan.sampling_rate,
            clip=plan.clip,
            clipping=recipe.privacy.clipping,
            noise_multiplier=plan.noise_multiplier,
            divisor=recipe.training.batch_size * recipe.training.accumulate,
            noise=noise or SecureNoise(),
            rows=rows or PoissonRows(),
        )

    def draw(self, rows: int) -> list[int]:
        """Which of so many rows are in the next step."""
        return self.rows.draw(rows, self.sampling_rate)

    def clipped(self, gradients: Gradients) -> State:
        """The sum of the rows' clipped gradients, float64."""
        return clipped_sum(gradients, self.clip, self.clipping)

    def release(self, total: Mapping[str, torch.Tensor]) -> State:
        """The step's gradient: the sum with its noise, over the divisor; fp32."""
        noised = add_noise(total, self.noise_multiplier * self.clip, self.noise)
        return {name: tensor.div_(self.divisor) for name, tensor in noised.items()}
