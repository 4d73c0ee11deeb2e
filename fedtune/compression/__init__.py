"""Compression: the stages of an upload, one file each, and the pipeline that runs them."""

from fedtune.compression.base import Stage, Tensors
from fedtune.compression.half import Bf16, Fp16
from fedtune.compression.pipeline import Pipeline
from fedtune.recipe.compression import CompressionSection

__all__ = ["STAGES", "Bf16", "Fp16", "Pipeline", "Stage", "Tensors", "make_pipeline"]

STAGES: dict[str, type[Stage]] = {"fp16": Fp16, "bf16": Bf16}
"""Every stage by its name in a recipe."""


def make_pipeline(section: CompressionSection, *, download: bool = False) -> Pipeline:
    """The pipeline of a recipe's uploads, or of its downloads, stages first to last."""
    names = section.download if download else section.upload
    return Pipeline(tuple(STAGES[name](section) for name in names))
