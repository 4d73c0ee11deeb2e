"""Rules of example-level privacy: what DP-SGD inside a client cannot be mixed with."""

from fedtune.recipe.allowed import as_toml
from fedtune.recipe.recipe import Recipe
from fedtune.recipe.rule import Rule, into

EXAMPLE_RULES: list[Rule] = []
"""In the order of this file."""

refuses = into(EXAMPLE_RULES)


def _example(r: Recipe) -> bool:
    return r.privacy.unit == "example"


@refuses("privacy.sampling_rate", "privacy.unit")
def _no_rate_of_rows(r: Recipe) -> str | None:
    if not _example(r) or r.privacy.sampling_rate:
        return None
    return (
        "privacy.sampling_rate is open: the probability with which each row is in a step's batch must be the same "
        "number for all and public; set it near training.batch_size x accumulate over the rows of a typical client"
    )


@refuses("training.steps", "privacy.unit")
def _epochs_under_privacy(r: Recipe) -> str | None:
    if not _example(r) or r.training.steps is not None:
        return None
    return (
        "training.steps is open: counting epochs would tell how many rows a client has; set training.steps, the local "
        'steps of every client in a round under privacy.unit = "example"'
    )


@refuses("training.gradient_checkpointing", "privacy.unit")
def _checkpointing_under_privacy(r: Recipe) -> str | None:
    if not _example(r) or not r.training.gradient_checkpointing:
        return None
    return (
        "training.gradient_checkpointing hides activations from the hooks that clip each example's gradient; set it "
        "to false, and lower training.batch_size where memory is short: the batch in memory does not change ε"
    )


@refuses("training.compile", "privacy.unit")
def _compile_under_privacy(r: Recipe) -> str | None:
    if not _example(r) or not r.training.compile:
        return None
    return (
        'training.compile bypasses the hooks that clip each example\'s gradient; set it to false under unit "example"'
    )


@refuses("training.max_grad_norm", "privacy.clip")
def _clip_twice(r: Recipe) -> str | None:
    if not _example(r) or r.training.max_grad_norm is None:
        return None
    return (
        "training.max_grad_norm would clip the sum after its noise, which takes signal and hides nothing more; set it "
        'to "none": privacy.clip clips each example'
    )


@refuses("adapter.kind", "privacy.unit")
def _library_adapters_under_privacy(r: Recipe) -> str | None:
    if not _example(r) or r.adapter.kind not in ("peft", "full"):
        return None
    if r.adapter.kind == "full":
        return (
            'adapter.kind = "full" trains embeddings and norms, whose gradient by example is not taken; set kind to '
            '"square", "lora" or "ravan", or privacy.unit = "client"'
        )
    return (
        f'adapter.kind = "peft" ({as_toml(r.adapter.peft_type)}) may train tensors whose gradient by example cannot be '
        'taken (DoRA, embeddings); set kind to "square", "lora" or "ravan"'
    )
