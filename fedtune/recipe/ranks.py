"""Which client has which rank: `federation.ranks`, read."""

from collections.abc import Sequence
from fnmatch import fnmatchcase


def read_rule(rule: str) -> tuple[str, int]:
    """`"hospital-*=4"` as its pattern and its rank."""
    pattern, _, rank = rule.rpartition("=")
    return pattern, int(rank)


def rank_of(client: str, rules: Sequence[str], whole: int) -> int:
    """The rank of the first rule whose pattern fits the client's name; `whole` where none does."""
    for pattern, rank in map(read_rule, rules):
        if fnmatchcase(client, pattern):
            return rank
    return whole
