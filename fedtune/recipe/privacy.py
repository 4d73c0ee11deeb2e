"""The `[privacy]` section: whose presence a run promises to hide, how well, and by which mechanism."""

from typing import Literal

from pydantic import Field

from fedtune.recipe.base import Section


class PrivacySection(Section):
    """The unit of privacy, the budget of the run, and the mechanism that keeps it."""

    unit: Literal["none", "example", "client"] = "none"
    """`none` promises nothing beyond what stays on the client. `example`: DP-SGD inside each client hides each row of
    it. `client`: the coordinator clips whole updates and adds noise to their sum, which hides each client."""
    epsilon: float | None = Field(None, gt=0)
    """ε of all planned rounds together, at `delta`: the noise is calibrated to it (PLD accountant)."""
    delta: float | None = Field(None, gt=0, lt=0.1)
    """δ: required; below one over the number of what is hidden, for example 1e-5."""
    noise_multiplier: float | None = Field(None, gt=0)
    """Standard deviation of the noise over `clip`; calibrated from `epsilon` unless given."""
    clip: float = Field(1.0, gt=0)
    """Euclidean norm that one example's gradient (`example`) or one client's update (`client`) is clipped to."""
    clipping: Literal["flat", "per-layer", "automatic"] = "flat"
    """`example`: clip the whole gradient; each tensor to clip/√tensors; or scale every one to `clip`, without a
    threshold (automatic clipping, arXiv 2206.07136)."""
    sampling_rate: float | None = Field(None, gt=0, le=1)
    """The probability that a row is in a local step's batch (`example`; drawn by the client), or a client in a round
    (`client`; drawn by the coordinator and logged). A step is divided by `training.batch_size` x `accumulate`, or by
    `sampling_rate` x `population`, never by how many were drawn."""
    population: int = Field(0, ge=0)
    """`client`: the number of enrolled clients, which is public."""
    mechanism: Literal["sampled", "banded"] = "sampled"
    """`client`: fresh noise over Poisson samples of clients; or correlated noise (banded square root factorisation,
    DP-FTRL, arXiv 2405.13763) where who is there cannot be drawn at random: each client at most once in
    `population` / `clients_per_round` rounds."""
    min_separation: int = Field(1, ge=1)
    """`banded`: the number of bands, and the rounds that two rounds of one client are apart at the very least; its turn
    comes round after `population` / `clients_per_round`, which must not be less, and that is what ε counts by."""
    noise: Literal["coordinator", "client"] = "coordinator"
    """`client`: who adds the noise. `client` is for those who do not trust the coordinator: each
    adds the whole of it."""
    clip_quantile: float | None = Field(None, gt=0, lt=1)
    """`client`: adapt `clip` to this quantile of the updates' norms, by noised counts (arXiv 1905.03871)."""
    clip_rate: float = Field(0.2, gt=0)
    """The step of the adaption, in the exponent."""
    count_noise: float = Field(10.0, gt=0)
    """Standard deviation of the noise on the count of unclipped updates."""
    metrics: Literal["withheld", "noised"] = "withheld"
    """What clients say of their own rows' scores: nothing, or sums with noise that the budget pays for (`example`)."""
    metrics_noise: float = Field(20.0, gt=0)
    """Noise multiplier of noised metrics."""
    init_noise: float = Field(4.0, gt=0)
    """Noise multiplier of `adapter.init = "dp-gradient"`, which the budget pays for."""
