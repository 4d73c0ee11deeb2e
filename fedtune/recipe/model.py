"""The `[model]` section: which pretrained model is fine-tuned, and for what task."""

from typing import Literal

from pydantic import Field

from fedtune.recipe.base import Section

Task = Literal["sequence-classification", "causal-lm", "image-classification"]


class ModelSection(Section):
    """The frozen base model and the task that its adapter learns."""

    name: str = Field(min_length=1)
    """A name of the catalogue (`minilm`, `smollm2-135m`, `dinov2-small`), a folder, `package:NAME`, or a Hub id."""
    task: Task = "sequence-classification"
    """What the model is trained to do."""
    labels: tuple[str, ...] = ()
    """The classes in order; read from the data where it is at hand and this is empty. Unused by `causal-lm`."""
    revision: str = "main"
    """Which revision of a Hub model."""
    max_length: int = Field(128, ge=2, le=131_072)
    """Longest text, in tokens; what is longer is cut."""
    image_size: int = Field(112, ge=14, le=1024)
    """Images are resized to a square of this many pixels."""
    quantization: Literal["none", "nf4"] = "none"
    """`nf4` holds the base in 4 bits (QLoRA, arXiv 2305.14314); needs a CUDA GPU and bitsandbytes."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Every chance of the base model to drop numbers while it trains; its own unless given. With 0 what frozen
    layers make of a row is computed once and kept, and images share passes in a simulation."""
