"""One linear map a client over a stream in which clients' tokens stand one after the other.

Shape suffixes: K = clients, T = tokens of all of them, N = in features, M = out features.
"""

from typing import Any

import torch

from fedtune.cohort.layout import Spans


def each_linear(x_TN: torch.Tensor, weights_KMN: torch.Tensor, spans: Spans) -> torch.Tensor:
    """x·Wₖᵀ for the tokens of each client, (T, M), in the weights' dtype or in autocast's.

    Equal spans are one batched product; others are one product a client, which on a CPU costs no more than that and
    needs no padding.
    """
    kind = x_TN.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weights_KMN.dtype
    product: torch.Tensor = _EachLinear.apply(x_TN.to(dtype), weights_KMN.to(dtype), spans)  # type: ignore[no-untyped-call]
    return product


def each_one(values_KM: torch.Tensor, spans: Spans) -> torch.Tensor:
    """Each client's vector beside each of its tokens, (T, M)."""
    if len(set(spans)) == 1:
        return values_KM[:, None].expand(-1, spans[0], -1).flatten(0, 1)
    counts = torch.tensor(spans, device=values_KM.device)
    return values_KM.repeat_interleave(counts, dim=0, output_size=sum(spans))


class _EachLinear(torch.autograd.Function):
    """One node of the graph whatever the number of clients is."""

    @staticmethod
    def forward(ctx: Any, x_TN: torch.Tensor, weights_KMN: torch.Tensor, spans: Spans) -> torch.Tensor:
        ctx.save_for_backward(x_TN, weights_KMN)
        ctx.spans = spans
        return _products(x_TN, weights_KMN.mT, spans)

    @staticmethod
    def backward(ctx: Any, gradient_TM: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        x_TN, weights_KMN = ctx.saved_tensors
        along_x = _products(gradient_TM, weights_KMN, ctx.spans) if ctx.needs_input_grad[0] else None
        along_weights = _outer(gradient_TM, x_TN, ctx.spans) if ctx.needs_input_grad[1] else None
        return along_x, along_weights, None


def _products(x_TN: torch.Tensor, factors_KNM: torch.Tensor, spans: Spans) -> torch.Tensor:
    """x·Fₖ, (T, M)."""
    clients, inner, out = factors_KNM.shape
    if len(set(spans)) == 1:
        return torch.bmm(x_TN.reshape(clients, -1, inner), factors_KNM).reshape(-1, out)
    product_TM = x_TN.new_empty(len(x_TN), out)
    parts = zip(torch.split(x_TN, list(spans)), factors_KNM, torch.split(product_TM, list(spans)), strict=True)
    for x_SN, factor_NM, product_SM in parts:
        torch.mm(x_SN, factor_NM, out=product_SM)
    return product_TM


def _outer(gradient_TM: torch.Tensor, x_TN: torch.Tensor, spans: Spans) -> torch.Tensor:
    """Σ over a client's tokens of g·xᵀ, (K, M, N)."""
    clients, out, inner = len(spans), gradient_TM.shape[1], x_TN.shape[1]
    if len(set(spans)) == 1:
        return torch.bmm(gradient_TM.reshape(clients, -1, out).mT, x_TN.reshape(clients, -1, inner))
    sums_KMN = x_TN.new_empty(clients, out, inner)
    parts = zip(torch.split(gradient_TM, list(spans)), torch.split(x_TN, list(spans)), sums_KMN, strict=True)
    for gradient_SM, x_SN, sum_MN in parts:
        torch.mm(gradient_SM.T, x_SN, out=sum_MN)
    return sums_KMN
