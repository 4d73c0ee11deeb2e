"""The `[compression]` section: what a client does to an update before it leaves, and what comes back to it."""

from typing import Literal

from pydantic import Field

from fedtune.recipe.base import Section

StageName = Literal[
    "fp16",
    "bf16",
    "ternary",
    "top-k",
    "sign",
    "int8",
    "int4",
    "nf4",
    "random-k",
    "rotate",
    "low-rank",
    "entropy",
    "rice",
    "bitmask",
]


class CompressionSection(Section):
    """The stages of the upload, in the order in which the client applies them, and their settings."""

    upload: tuple[StageName, ...] = ()
    """Nothing sends fp32. Sparsify: `ternary` (ComPEFT: top-k, signs and one scale), `top-k`, `random-k`. Quantise:
    `fp16`, `bf16`, `int8`, `int4`, `nf4`, `sign`. Before either: `rotate` (Hadamard), `low-rank`. At the end, lossless:
    `entropy` (range coder), `rice` (Golomb-Rice), `bitmask`."""
    density: float = Field(0.05, gt=0, le=1)
    """The share of numbers that `ternary`, `top-k` and `random-k` keep."""
    threshold: Literal["global", "tensor"] = "global"
    """Is the share kept of the whole update, or of each tensor by itself?"""
    scale: Literal["least-squares", "sigma"] = "least-squares"
    """The one magnitude of `ternary`: the mean of what is kept (STC), or `alpha` standard deviations of the whole
    update (ComPEFT, arXiv 2311.13171)."""
    alpha: float = Field(1.0, gt=0)
    """The factor of `scale = "sigma"`."""
    block: int = Field(64, ge=8, le=65536)
    """Numbers that share one scale under `int8`, `int4` and `nf4`."""
    rank: int = Field(4, ge=1)
    """The rank of `low-rank`."""
    feedback: Literal["auto", "none", "classic", "ef21"] = "auto"
    """Error feedback of lossy uploads, from the client's own disk: `classic` adds what was not sent to the next update;
    `ef21` sends the difference to a copy that the coordinator holds of every client. `auto`: classic where it can."""
    download: tuple[StageName, ...] = ()
    """The stages of what clients are sent, as for `upload`: each round's step of the global state, encoded once, with
    the coordinator's own error feedback; who has not the state before it is sent the whole. Empty sends the state."""
