"""Soft prompts: trained vectors that stand among the tokens (arXiv 2101.00190; at images' inputs 2203.12119)."""

import torch
from torch import nn

from fedtune.recipe.split import SplitSection
from fedtune.seeds import generator

START = 0.1
"""A new prompt is uniform within ± this."""


class Prompts(nn.Module):
    """The vectors of one client: `input` (P, D) and, where prompts are deep, `layer.<i>` (P, D).

    `input` is put in behind the embeddings, or at the cut. At each later layer i of the client part the prompt's
    positions are overwritten by `layer.<i>` (VPT-deep, arXiv 2203.12119, at the client's layers alone).
    """

    def __init__(self, tokens: int, width: int, deep: tuple[int, ...] = (), *, at_cut: bool = False) -> None:
        super().__init__()
        self.at_cut = at_cut
        """Is `input` put in behind the head's layers, instead of behind the embeddings?"""
        self.input = nn.Parameter(torch.zeros(tokens, width))
        self.layer = nn.ParameterDict({str(index): nn.Parameter(torch.zeros(tokens, width)) for index in deep})

    @classmethod
    def of(cls, section: SplitSection, width: int, layers: int, seed: int) -> "Prompts | None":
        """The prompts that a recipe asks for; None where it asks for none.

        `layers` is how many the client keeps (`Cut.client`). Every tensor has a draw of its own from `seed` and its
        name, uniform within ±0.1: the same on all machines.
        """
        if section.prompt_tokens == 0:
            return None
        at_cut = section.prompt_at == "cut"
        first = (section.head_layers or 0) if at_cut else 0
        deep = tuple(range(first + 1, layers)) if section.deep_prompts else ()
        prompts = cls(section.prompt_tokens, width, deep, at_cut=at_cut)
        with torch.no_grad():
            for name, parameter in prompts.named_parameters():
                draw = torch.rand(parameter.shape, generator=generator(seed, f"prompt {name}"))
                parameter.copy_((2 * draw - 1) * START)
        return prompts

    @property
    def tokens(self) -> int:
        """P, how many vectors stand among the tokens."""
        return self.input.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the vectors are."""
        return self.input.device

    def deep(self, index: int) -> nn.Parameter | None:
        """The vectors of the client part's layer `index`; None where it has none of its own."""
        return dict(self.layer).get(str(index))


def insert(hidden: torch.Tensor, vectors: torch.Tensor, at: int) -> torch.Tensor:
    """(B, T, D) and (P, D) become (B, T + P, D): the vectors stand at index `at` of every row."""
    rows = vectors.to(hidden.dtype).expand(hidden.shape[0], -1, -1)
    return torch.cat((hidden[:, :at], rows, hidden[:, at:]), dim=1)


def overwrite(hidden: torch.Tensor, vectors: torch.Tensor, at: int) -> torch.Tensor:
    """(B, T, D) with the P vectors from index `at` replaced by `vectors` (P, D), in a new tensor."""
    rows = vectors.to(hidden.dtype).expand(hidden.shape[0], -1, -1)
    return torch.cat((hidden[:, :at], rows, hidden[:, at + vectors.shape[0] :]), dim=1)


def remove(hidden: torch.Tensor, tokens: int, at: int) -> torch.Tensor:
    """(B, T + P, D) becomes (B, T, D): what `insert` put in is taken out."""
    return torch.cat((hidden[:, :at], hidden[:, at + tokens :]), dim=1)


def extend_mask(mask: torch.Tensor | None, tokens: int, at: int) -> torch.Tensor | None:
    """(B, T) becomes (B, T + P): a prompt is never padding. None stays None: every token is there."""
    if mask is None:
        return None
    return torch.cat((mask[:, :at], mask.new_ones(mask.shape[0], tokens), mask[:, at:]), dim=1)
