"""Compression: the stages of an upload, one file each, and the pipeline that runs them."""

from fedtune.compression.base import Stage, Tensors
from fedtune.compression.bitmask import Bitmask
from fedtune.compression.entropy import Entropy
from fedtune.compression.half import Bf16, Fp16
from fedtune.compression.low_rank import LowRankFactors
from fedtune.compression.nf4 import Nf4
from fedtune.compression.pipeline import Pipeline
from fedtune.compression.random_k import RandomK
from fedtune.compression.rice import Rice
from fedtune.compression.rotate import Rotate
from fedtune.compression.sign import Sign
from fedtune.compression.stochastic import Int4, Int8
from fedtune.compression.ternary import Ternary
from fedtune.compression.top_k import TopK
from fedtune.recipe.compression import CompressionSection

__all__ = ["STAGES", "Bf16", "Fp16", "Pipeline", "Stage", "Tensors", "make_pipeline"]

STAGES: dict[str, type[Stage]] = {
    "fp16": Fp16,
    "bf16": Bf16,
    "ternary": Ternary,
    "top-k": TopK,
    "sign": Sign,
    "int8": Int8,
    "int4": Int4,
    "nf4": Nf4,
    "random-k": RandomK,
    "rotate": Rotate,
    "low-rank": LowRankFactors,
    "entropy": Entropy,
    "rice": Rice,
    "bitmask": Bitmask,
}
"""Every stage by its name in a recipe."""


def make_pipeline(section: CompressionSection, *, download: bool = False) -> Pipeline:
    """The pipeline of a recipe's uploads, or of its downloads, stages first to last."""
    names = section.download if download else section.upload
    coded = [any(STAGES[later].lossless for later in names[position + 1 :]) for position in range(len(names))]
    return Pipeline(tuple(STAGES[name](section, coded=c) for name, c in zip(names, coded, strict=True)))
