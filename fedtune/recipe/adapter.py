"""The `[adapter]` section: which small tensors are trained instead of the model."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from fedtune.recipe.base import Section

AdapterKind = Literal["lora", "square", "ravan", "peft", "prompt", "full"]
AdapterForm = Literal["lora", "ffa", "square", "ravan", "peft", "prompt", "full"]
"""What aggregation tells apart: `ffa` is `lora` with a frozen A."""
ModuleName = Annotated[str, StringConstraints(min_length=1)]
Initialisation = Literal["weights", "random", "public-gradient", "private-gradient", "dp-gradient", "kaiming"]


class AdapterSection(Section):
    """The trained tensors, where they sit and how they start."""

    kind: AdapterKind = "square"
    """`lora`: B·A (arXiv 2106.09685). `square`: trainable R between frozen B and A (arXiv 2411.19557, 2502.15436).
    `ravan`: several squares between frozen random orthogonal factors, with trained scales (arXiv 2506.05568). `peft`:
    the method of the `peft` library that `peft_type` names. `prompt`: vectors among the tokens of every row, and no
    change inside the model (arXiv 2104.08691; of images 2203.12119). `full`: the weights themselves; of a split model
    those of the tail's layers (with split.train_head of the head's too), the norm and the task's head."""
    rank: int = Field(16, ge=1, le=4096)
    """The inner dimension r."""
    freeze_a: bool = False
    """Train B alone between clients that share A, drawn from `seed` and never sent (FFA-LoRA, arXiv 2403.12313);
    `lora` only."""
    heads: int = Field(4, ge=1, le=256)
    """The number of squares that `ravan` adds up on each module."""
    prompt_tokens: int = Field(20, ge=1, le=1024)
    """How many vectors `prompt` puts before the tokens of a text, or behind an image's class token."""
    peft_type: str = ""
    """The method of `kind = "peft"` by its name in the `peft` library, for example "ia3" or "vera"."""
    peft_options: tuple[str, ...] = ()
    """Its settings as `name=value`, for example "target_modules=all-linear"; the library's own defaults otherwise."""
    alpha: float | None = Field(None, gt=0)
    """LoRA's α: the product is scaled by α/r. Default r, a scale of one; `square` is always scaled by one."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before the adapter; `lora` only."""
    targets: Literal["all-linear", "attention"] | tuple[ModuleName, ...] = "all-linear"
    """`all-linear`, `attention` (query and value projections of the model at hand), or module names to end in."""
    init: Initialisation = "weights"
    """`weights`: SVD of the base weight; `full` goes on from it, `prompt` from embeddings of words. `random`: seeded.
    `kaiming`: LoRA's own, B=0, and the default of `lora`. `public-gradient`: SVD of the gradient on a public set.
    `private-gradient`: the published LoRA-SB start, from the clients' own rows; refused under privacy. `dp-gradient`:
    the same with rows clipped and noise, from the budget."""
    seed: int = Field(0, ge=0)
    """The seed of `random` and `kaiming`, and of a prompt's words: the same on every client, eight bytes instead of
    the factors."""
    head: bool = True
    """Train the classification head too (counted in every upload); off by default for `causal-lm`, which has none."""
    init_rows: int = Field(64, ge=1)
    """How many rows a gradient initialisation reads."""
    init_source: str = ""
    """The public data set of `public-gradient`."""

    @property
    def form(self) -> AdapterForm:
        """The adapter's kind, as aggregation tells them apart."""
        return "ffa" if self.kind == "lora" and self.freeze_a else self.kind
