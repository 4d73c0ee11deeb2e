"""Dropout of rows that share a pass: each row's masks are its own, drawn by its seed alone.

On a CPU they are those of the row alone in the model's own forward pass with torch's generator at that seed: a number
for each of the row's own tokens, heads and features, dropout after dropout as the model comes to them. So they do not
depend on who else is in the pass, on padding, or on how a batch is cut into passes.

Shape suffixes: R = rows, N = tokens of all rows, M = those that are read, H = heads, Q = queries, K = keys of a padded
row.
"""

from collections.abc import Callable, Sequence

import torch

from fedtune.cohort.places import Group

Shares = Callable[[Group, torch.Tensor], torch.Tensor]
"""What is left of the shares of attention of a group of rows, (R, H, Q, K)."""


class Drops:
    """The masks of one pass, each row's drawn as its dropouts are come to."""

    def __init__(self, seeds: Sequence[int], lengths: Sequence[int], read: torch.Tensor, reads: Sequence[int]) -> None:
        """For rows of `lengths` tokens of which `reads` are read, at the places `read` (M,) of the stream."""
        self._coins = [torch.Generator(read.device).manual_seed(seed) for seed in seeds]
        self._lengths, self._reads = list(lengths), list(reads)
        starts = torch.tensor([0, *lengths], device=read.device).cumsum(0)[:-1]
        counts = torch.tensor(reads, device=read.device)
        self._inside = torch.split(read - starts.repeat_interleave(counts), self._reads)

    def of(self, x: torch.Tensor, chance: float) -> torch.Tensor:
        """Dropout of all tokens (1, N, …), of the read ones (1, M, …), or of what is left of rows (R, …).

        Raises ValueError where x is none of these.
        """
        if x.ndim == 2 and len(x) == len(self._coins):
            return x * self._drawn(x, [1] * len(x), chance)
        if x.ndim == 3 and x.shape[:2] == (1, sum(self._lengths)):
            return x * self._drawn(x[0], self._lengths, chance)
        if x.ndim == 3 and x.shape[:2] == (1, sum(self._reads)):
            whole = self._drawn(x.new_empty(sum(self._lengths), x.shape[2]), self._lengths, chance)
            rows = zip(torch.split(whole, self._lengths), self._inside, strict=True)
            return x * torch.cat([own[inside] for own, inside in rows])
        raise ValueError(f"dropout of a tensor of shape {tuple(x.shape)} is not that of rows in a stream")

    def shares(self, chance: float, *, read: bool) -> Shares | None:
        """Dropout of what each token takes from its row's; `read`: do only the read ones ask? None where it is off."""

        def left(group: Group, shares_RHQK: torch.Tensor) -> torch.Tensor:
            factors = torch.zeros_like(shares_RHQK)
            for place, row in enumerate(group.numbers):
                heads, length = shares_RHQK.shape[1], self._lengths[row]
                drawn = shares_RHQK.new_empty(heads, length, length)
                drawn.bernoulli_(1 - chance, generator=self._coins[row])
                drawn = drawn[:, self._inside[row]] if read else drawn
                factors[place, :, : drawn.shape[1], :length] = drawn
            return shares_RHQK * factors.div_(1 - chance)

        return left if chance else None

    def _drawn(self, like: torch.Tensor, counts: Sequence[int], chance: float) -> torch.Tensor:
        """What each number is multiplied by: 0, or 1 over the chance that it stays."""
        factors = torch.empty_like(like, memory_format=torch.contiguous_format)
        for coin, own in zip(self._coins, torch.split(factors, list(counts)), strict=True):
            own.bernoulli_(1 - chance, generator=coin)
        return factors.div_(1 - chance)
