"""Bucketing: before a rule, updates are averaged in random buckets of s (arXiv 2006.09365)."""

import torch

from fedtune.aggregation.robust.columns import combine


def average_buckets(matrix: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """The means of buckets of `size` rows drawn without replacement; (⌈K/size⌉, d) in the matrix's dtype.

    The last bucket may hold fewer. Buckets differ less than rows do, but f poisoned rows poison up to f buckets: the
    poisoned share grows up to `size` times.
    """
    rows = len(matrix)
    drawn = torch.split(torch.randperm(rows, generator=generator), size)
    weights = torch.zeros(len(drawn), rows, dtype=torch.float64)
    for bucket, members in enumerate(drawn):
        weights[bucket, members] = 1 / len(members)
    return combine(weights, matrix).to(matrix.dtype)
