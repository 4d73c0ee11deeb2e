"""The split service that a recipe asks for: its body, loaded once on the recipe's device, and the limits per client."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from fedtune.recipe import Recipe
from fedtune.split.asks import Coding
from fedtune.split.copies import BodyCopies
from fedtune.split.limits import SplitLimits
from fedtune.split.local import body_model
from fedtune.split.serve import BodyServer
from fedtune.training.device import choose_device, has_bf16
from server.split.service import SplitService


def split_service(recipe: Recipe, *, run: Callable[[], str], copies: BodyCopies | None = None) -> SplitService:
    """The service of `recipe`'s body, to stand beside the link; the coordinator's own evaluation shares the weights.

    `copies` are what it trains, the very ones that the run takes from; None where the body is frozen.

    Raises ModelError where the body cannot be loaded, RunError where the device is not there.
    """
    split = recipe.split
    device = choose_device(recipe.training.device)
    bf16 = recipe.training.precision == "bf16" and has_bf16(device)

    def autocast() -> AbstractContextManager[Any]:
        return torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else nullcontext()

    body = body_model(recipe)
    server = BodyServer(
        body,
        body.width,
        coding=Coding(split.activations, split.topk),
        device=device,
        limits=SplitLimits(in_flight=split.in_flight),
        autocast=autocast,
        copies=copies,
    )
    return SplitService(server, body.fingerprint, run=run)
