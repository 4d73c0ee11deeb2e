"""How LoRA's A starts (arXiv 2106.09685), and starts anew where a scheme has taken an adapter's product over."""

import math

import torch
from torch import nn

from fedtune.seeds import generator


def draw_a(rows: int, columns: int, *, seed: int, module: str, round_: int = 0) -> torch.Tensor:
    """A fresh A (rows, columns), uniform within ±1/√columns, for the adapter of `module` after `round_`.

    On the CPU in fp32, so that every machine draws the same; every module and round has a draw of its own, and round
    0 is the adapter's first start.
    """
    draw = generator(seed, "adapter", round_=round_, client=module)
    return nn.init.kaiming_uniform_(torch.empty(rows, columns), a=math.sqrt(5), generator=draw)
