"""The `[aggregation]` section: how updates become the next global state."""

from typing import Literal

from pydantic import Field

from fedtune.recipe.base import Section

SchemeName = Literal[
    "mean",
    "rolora",
    "fedsa",
    "fedex",
    "flora",
    "flexlora",
    "hetlora",
    "lora-fair",
    "florist",
    "fedrot",
    "fedsvd",
]
RobustRule = Literal["mean", "median", "trimmed-mean", "geometric-median", "krum", "multi-krum", "centred-clipping"]


class AggregationSection(Section):
    """The scheme and the weights of its sum."""

    scheme: SchemeName = "mean"
    """`mean`: the weighted mean of the deltas (Fed-SB, FedIT, FFA-LoRA, RAVAN). The others are for `lora`: `rolora`,
    `fedsa`, `fedex`, `flora`, `flexlora`, `hetlora`, `lora-fair`, `florist`, `fedrot`, `fedsvd`; docs/aggregation.md
    says what each costs and guarantees."""
    weights: Literal["examples", "uniform", "capped"] = "examples"
    """A client's weight: its number of examples, one, or its number of examples up to `weight_cap`."""
    weight_cap: int = Field(1000, ge=1)
    """The largest weight under `capped`."""
    max_examples: int = Field(10_000_000, ge=1)
    """A client that claims more examples than this is not believed."""
    max_norm: float = Field(1e6, gt=0)
    """An update whose Euclidean norm is larger is refused."""
    residual: Literal["factored", "dense", "truncated"] = "factored"
    """How `fedex` sends the residual: the clients' factors, the whole matrices, or their best rank-`residual_rank`
    approximation, which is no longer exact."""
    residual_rank: int = Field(0, ge=0)
    """The rank of a truncated residual; 0 for the adapter's."""
    correct: Literal["B", "A", "both"] = "B"
    """Which mean factor `lora-fair` corrects."""
    solver: Literal["closed-form", "cosine-sgd"] = "closed-form"
    """How `lora-fair` finds the correction: one solve, or gradient steps on the published cosine."""
    regularisation: float = Field(0.01, ge=0)
    """`lora-fair`: the λ that holds the corrected factor close to the mean."""
    solver_steps: int = Field(1000, ge=1)
    """Gradient steps of `cosine-sgd`."""
    solver_lr: float = Field(0.01, gt=0)
    """Their learning rate."""
    energy: float = Field(0.95, gt=0, le=1)
    """`florist`: the share of the squared singular values that the global adapter keeps."""
    alignment: float = Field(0.5, ge=0, le=1)
    """`fedrot`: how far each client turns its factors towards the global ones; 0 not at all, 1 all the way."""
    prune: float = Field(0.0, ge=0, lt=1)
    """`hetlora`: a client whose last slots, this share of them, lost norm in training gives them up; 0 never."""
    rule: RobustRule = "mean"
    """What stands in the place of the mean, against clients that send poison; `scheme = "mean"` only."""
    before_rule: tuple[Literal["nnm", "bucketing"], ...] = ()
    """What is done to the updates before the rule: nearest-neighbour mixing, random buckets of `bucket_size`."""
    attackers: float = Field(0.2, ge=0, lt=0.5)
    """The largest share of poisoned updates that the rule is to stand."""
    bucket_size: int = Field(2, ge=1)
    """Updates in a bucket."""
    clip_radius: float = Field(0.0, ge=0)
    """`centred-clipping`: how far from the centre an update counts; 0 for the median distance."""
    clip_steps: int = Field(3, ge=1)
    """Its iterations."""
    server_optimizer: Literal["none", "avgm", "adagrad", "adam", "yogi"] = "none"
    """A server optimiser over the mean delta (FedAvgM, FedAdagrad, FedAdam, FedYogi: arXiv 1909.06335, 2003.00295)."""
    server_lr: float = Field(1.0, gt=0)
    """Its learning rate."""
    server_momentum: float = Field(0.9, ge=0, lt=1)
    """β1, or the momentum of `avgm`."""
    server_beta2: float = Field(0.99, ge=0, lt=1)
    """β2 of `adam` and `yogi`."""
    server_tau: float = Field(1e-3, gt=0)
    """What is added to the root of the second moment: the degree of adaptivity."""
    diagnose: bool = False
    """Measure each round how far the new global product is from the mean of the clients' products; keeps every update
    of a round in memory."""
