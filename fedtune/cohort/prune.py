"""May the last layer compute some tokens alone? It is tried out, so that another version of a model is found out."""

import torch

from fedtune.cohort.ask import Ask
from fedtune.cohort.attention import rows_apart
from fedtune.cohort.stream import Stream
from fedtune.cohort.tail import Stack
from fedtune.cohort.written import WRITTEN

LENGTHS = (5, 3)
"""The rows that it is tried on."""
CLOSE = 1e-4
"""How far two ways may be apart, as a share of the largest number: a layer of another kind is farther."""


def why_not_pruned(stack: Stack, device: torch.device) -> str | None:
    """Why the last layer has to compute all tokens, to stand behind "because"; None where it need not."""
    if stack.family.task == "image-classification" and not stack.family.reads_first:
        return "its head reads every token"
    if stack.family.name not in WRITTEN:
        return f"how a {stack.family.name} layer computes some tokens is not written down"
    if not len(stack.layers):
        return "it has no layers"
    try:
        apart = _difference(stack, device)
    except (AttributeError, TypeError, RuntimeError, ValueError):
        return "its last layer has other parts than fedtune knows"
    return None if apart <= CLOSE else "its last layer computes something else than fedtune knows"


@torch.no_grad()
def _difference(stack: Stack, device: torch.device) -> float:
    """How far the written layer is from the model's own, for the read tokens of two rows of noise."""
    read = torch.tensor([0, 2, 5], device=device)
    stream = Stream((2,), LENGTHS, read, (2, 1))
    draw = torch.Generator().manual_seed(0)
    layer, config = stack.layers[-1], stack.model.config
    hidden = torch.randn(1, sum(LENGTHS), config.hidden_size, generator=draw).to(device, _dtype(layer))
    positions = torch.cat([torch.arange(length) for length in LENGTHS]).unsqueeze(0).to(device)
    rotary = getattr(stack.base, "rotary_emb", None)
    named = {} if rotary is None else {"position_embeddings": rotary(hidden, position_ids=positions)}
    training = layer.training
    layer.eval()
    try:
        with rows_apart([config], stream.all_to_all):
            whole = layer(hidden, **named)
        own = WRITTEN[stack.family.name].forward(
            layer, hidden, Ask.of(stream, read=True), named.get("position_embeddings")
        )
    finally:
        layer.train(training)
    expected = whole[0] if isinstance(whole, tuple) else whole
    return float((own - expected[:, read]).abs().max() / expected.abs().max())


def _dtype(layer: torch.nn.Module) -> torch.dtype:
    return next(p.dtype for p in layer.parameters() if p.is_floating_point())
