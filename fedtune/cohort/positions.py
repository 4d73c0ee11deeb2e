"""Which position a model of a family gives each token of a row."""

from typing import Any

from fedtune.cohort.pack import Positions, counted
from fedtune.cohort.tail import Stack


def positions_of(stack: Stack, *, prompted: bool) -> Positions:
    """RoBERTa counts from behind its padding token's number, and leaves that token out where it knows the tokens, which
    behind a prompt it does not; the others count from 0."""
    if stack.family.name != "roberta":
        return counted
    embeddings: Any = stack.base.get_submodule(stack.family.embeddings)
    padding = embeddings.padding_idx
    if prompted:
        return lambda ids_BT: counted(ids_BT) + padding + 1
    return lambda ids_BT: embeddings.create_position_ids_from_input_ids(ids_BT, padding)
