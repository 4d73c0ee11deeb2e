"""Soft prompts of a whole model as one layer: trained vectors that every row gets among its tokens."""

import torch
from torch import nn

from fedtune.split.prompt import insert

NAME = "prompt"
"""What the layer is called in the module that it is put into."""


class PromptLayer(nn.Module):
    """`input` (P, D): the vectors that stand at index `at` of each row (arXiv 2104.08691; of images 2203.12119)."""

    def __init__(self, start: torch.Tensor, at: int) -> None:
        super().__init__()
        self.input = nn.Parameter(start)
        self.at = at

    @property
    def tokens(self) -> int:
        """P."""
        return self.input.shape[0]

    def rows(self, count: int) -> torch.Tensor:
        """(count, P, D): what each of so many rows gets."""
        return self.input.expand(count, -1, -1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, T, D) to (B, T + P, D)."""
        return insert(hidden, self.rows(len(hidden)), self.at)
