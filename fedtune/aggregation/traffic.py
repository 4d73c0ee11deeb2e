"""How many numbers the parts of an adapter have: the terms of every scheme's traffic formula."""

from fedtune.aggregation.scheme import Layout


def state_numbers(layout: Layout, rank: int) -> int:
    """Numbers in the state of a client of `rank`, the task head left out."""
    per_rank = {"lora": lora_numbers, "ffa": b_numbers, "square": square_numbers, "ravan": ravan_numbers}
    count = per_rank.get(layout.form)
    return count(layout, rank) if count else layout.state_numbers


def lora_numbers(layout: Layout, rank: int) -> int:
    """Σ r(m+n)."""
    return sum(rank * (m + n) for m, n in layout.modules)


def a_numbers(layout: Layout, rank: int) -> int:
    """Σ r·n."""
    return sum(rank * n for _, n in layout.modules)


def b_numbers(layout: Layout, rank: int) -> int:
    """Σ r·m."""
    return sum(rank * m for m, _ in layout.modules)


def square_numbers(layout: Layout, rank: int) -> int:
    """r² a module."""
    return len(layout.modules) * rank * rank


def ravan_numbers(layout: Layout, heads: int) -> int:
    """h·r² a module: the squares, each with its scale multiplied in."""
    return len(layout.modules) * heads * layout.rank * layout.rank
