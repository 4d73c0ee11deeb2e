"""Compression: the stages of an upload, one file each, and the pipeline that runs them."""

from fedtune.compression.base import Stage, Tensors
from fedtune.compression.half import Bf16, Fp16
from fedtune.compression.pipeline import Pipeline

__all__ = ["STAGES", "Bf16", "Fp16", "Pipeline", "Stage", "Tensors", "make_pipeline"]

STAGES: dict[str, type[Stage]] = {"fp16": Fp16, "bf16": Bf16}
"""Every stage by its name in a recipe."""


def make_pipeline(names: tuple[str, ...]) -> Pipeline:
    """The upload's pipeline from a recipe's stage names, first to last."""
    return Pipeline(tuple(STAGES[name]() for name in names))
