"""Attention of one token a row, without keys and values: the token's query meets what these would be made of.

(Kₕ·xₜ)ᵀqₕ = xₜᵀ(Kₕᵀqₕ) and Σₜ pₜ·(Vₕ·xₜ) = Vₕ·(Σₜ pₜ·xₜ) for each head h: two maps of one vector a row in the place of
two of every token. The key's bias adds one number to all scores of a head, which the softmax forgets; the weights p sum
to one, so the value's bias is added as it is. Exact, but for rounding.

Shape suffixes: R = rows, H = heads, D = width of a head, N = tokens of all rows, P = padded places, T = tokens of a
padded row, W = width of the model.
"""

import torch

from fedtune.cohort.attention import gather, spread
from fedtune.cohort.layout import Spans
from fedtune.cohort.maps import Map
from fedtune.cohort.places import Places


def one_token(
    q_RHD: torch.Tensor, x_NW: torch.Tensor, key: Map, value: Map, places: Places, spans: Spans, scale: float
) -> torch.Tensor:
    """(R, H, D) of one query a row; x is what keys and values are projections of, `spans` the rows of each client."""
    asks_RHW = spread(key.back(q_RHD * scale, spans), places.queries)
    padded_PW = spread(x_NW, places.keys)
    mixed, row, token = [], 0, 0
    for group in places.groups:
        tokens = group.rows * group.keys
        x_RTW = padded_PW[token : token + tokens].view(group.rows, group.keys, -1)
        scores_RHT = torch.bmm(asks_RHW[row : row + group.rows], x_RTW.mT)
        if group.own is not None:
            scores_RHT = scores_RHT.masked_fill(~group.own[:, 0], -torch.inf)
        mixed.append(torch.bmm(scores_RHT.softmax(dim=-1), x_RTW))
        row, token = row + group.rows, token + tokens
    return value.heads(gather(torch.cat(mixed), places.queries), spans)
