"""The `[compression]` section: what a client does to an update before it leaves."""

from typing import Literal

from fedtune.recipe.base import Section

StageName = Literal["fp16", "bf16"]


class CompressionSection(Section):
    """The stages of the upload, in the order in which the client applies them."""

    upload: tuple[StageName, ...] = ()
    """`fp16`, `bf16`: half precision on the wire, summed in double; empty sends fp32."""
