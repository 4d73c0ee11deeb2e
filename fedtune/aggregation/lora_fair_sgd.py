"""The published solver of LoRA-FAIR (arXiv 2411.14961, eq. 8): gradient steps on a cosine, without the full matrices.

minimise 1 − cos(ΔW, (F+Δ)·G) + λ·‖Δ‖² over Δ, for a free factor F (out, r) beside a fixed one G (r, in). The paper
writes S(·) + λ·‖Δ‖ with a similarity S; what is to be small is one minus it, and the square is smooth at Δ = 0.
"""

import math

import torch


def cosine_steps(
    free: torch.Tensor,
    gap: torch.Tensor,
    gram: torch.Tensor,
    size: float,
    *,
    regularisation: float,
    steps: int,
    lr: float,
) -> torch.Tensor:
    """Δ (out, r) after `steps` steps from zero; zero where they end no better than they began.

    `gap` is (ΔW − F·G)·Gᵀ (out, r), `gram` G·Gᵀ (r, r) and `size` ‖ΔW‖, all in double precision. Every gradient lies
    in the span of F and `gap`, so the steps run on coordinates there: 2r rows, whatever `out` is. The penalty is taken
    implicitly, Δ ← (Δ − lr·∇(1 − cos)) / (1 + 2·lr·λ), so that no λ makes the steps diverge.
    """
    span, _ = torch.linalg.qr(torch.cat([free, gap], dim=1))
    start = span.T @ free
    toward = span.T @ gap + start @ gram
    delta = torch.zeros_like(start)
    for _ in range(steps):
        delta = (delta - lr * _slope(start + delta, toward, gram, size)) / (1 + 2 * lr * regularisation)
    before = 1 - _cosine(start, toward, gram, size)
    after = 1 - _cosine(start + delta, toward, gram, size) + regularisation * float(delta.square().sum())
    return span @ delta if after < before else torch.zeros_like(free)


def _cosine(free: torch.Tensor, toward: torch.Tensor, gram: torch.Tensor, size: float) -> float:
    """cos(ΔW, F·G) = ⟨F, ΔW·Gᵀ⟩ / (‖ΔW‖·‖F·G‖), with `toward` = ΔW·Gᵀ; 0 where a norm is zero."""
    norm = _norm(free @ gram, free)
    return float((free * toward).sum()) / (norm * size) if norm * size else 0.0


def _slope(free: torch.Tensor, toward: torch.Tensor, gram: torch.Tensor, size: float) -> torch.Tensor:
    """The gradient of 1 − cos(ΔW, F·G) by F; zero where the cosine is not defined."""
    onto = free @ gram
    norm = _norm(onto, free)
    if not norm * size:
        return torch.zeros_like(free)
    cosine = float((free * toward).sum()) / (norm * size)
    return (cosine / norm * onto - toward / size) / norm


def _norm(onto: torch.Tensor, free: torch.Tensor) -> float:
    """‖F·G‖ from F·(G·Gᵀ) and F."""
    return math.sqrt(max(float((onto * free).sum()), 0.0))
