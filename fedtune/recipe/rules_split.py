"""Rules of split models: which mixes are refused, why, and the ways out."""

from fedtune.recipe.allowed import as_toml
from fedtune.recipe.recipe import Recipe
from fedtune.recipe.rule import Rule, into
from fedtune.recipe.split import SplitSection

SPLIT_RULES: list[Rule] = []
"""In the order of this file."""

refuses = into(SPLIT_RULES)


@refuses("split.head_layers")
def _keys_without_a_split(r: Recipe) -> str | None:
    usual = SplitSection()
    changed = [name for name in SplitSection.model_fields if getattr(r.split, name) != getattr(usual, name)]
    if r.split.active or not changed:
        return None
    return (
        f"split.{changed[0]} has no effect where split.head_layers is open, which leaves the whole model with the "
        "client; set head_layers, for example 1, or take the keys of [split] out"
    )


@refuses("split.body", "adapter.kind")
def _body_of_another_kind(r: Recipe) -> str | None:
    if not r.split.trains_body or r.split.body == r.adapter.kind:
        return None
    return (
        f'split.body = "{r.split.body}" and adapter.kind = "{r.adapter.kind}" would make one export of two kinds; set '
        f'both alike ("full", "lora" or "square"), or body = "frozen"'
    )


@refuses("split.body", "training.scaffold", "training.proximal")
def _corrected_steps_of_a_body(r: Recipe) -> str | None:
    if not r.split.trains_body or not (r.training.scaffold or r.training.proximal):
        return None
    key = "scaffold = false" if r.training.scaffold else "proximal = 0"
    return (
        f'split.body = "{r.split.body}" has the coordinator take the steps of the body by its gradients alone, and '
        f'scaffold and proximal correct those of the client; set {key}, or body = "frozen"'
    )


@refuses("split.body", "training.steps")
def _body_without_a_step(r: Recipe) -> str | None:
    if not r.split.trains_body or r.training.steps != 0:
        return None
    return (
        f'split.body = "{r.split.body}" is trained in the steps through the body, and training.steps = 0 takes none; '
        'set steps to 1 or more, or body = "frozen"'
    )


@refuses("split.head_layers", "privacy.unit")
def _split_under_privacy(r: Recipe) -> str | None:
    if not r.split.active or r.privacy.unit == "none":
        return None
    return (
        f'privacy.unit = "{r.privacy.unit}" covers what clients upload at the end of a round; a split model also sends '
        "activations of single rows at every step, so that the coordinator sees which rows are in it and no sampling "
        "hides them: their noise (split.noise_multiplier) is accounted for by itself and not composed with this; take "
        '[split] out to train under privacy, or set unit = "none", where the noise on the activations promises what it '
        "does for them alone"
    )


@refuses("split.train_head", "split.head_layers")
def _head_without_layers(r: Recipe) -> str | None:
    if not r.split.train_head or r.split.head_layers != 0:
        return None
    return (
        "split.train_head trains the head's layers, and head_layers = 0 leaves none; set head_layers to 1 or more, or "
        "take train_head out"
    )


@refuses("split.deep_prompts", "split.prompt_tokens")
def _deep_prompts_of_nothing(r: Recipe) -> str | None:
    if not r.split.deep_prompts or r.split.prompt_tokens:
        return None
    return "split.deep_prompts renews prompt tokens, and there are none; set split.prompt_tokens, for example 5"


@refuses("split.prompt_at", "split.prompt_tokens")
def _place_of_no_prompt(r: Recipe) -> str | None:
    if r.split.prompt_at == "input" or r.split.prompt_tokens:
        return None
    return (
        f'split.prompt_at = "{r.split.prompt_at}" places prompt tokens, and there are none; set split.prompt_tokens, '
        "for example 5, or take prompt_at out"
    )


@refuses("split.deep_prompts", "split.prompt_at")
def _deep_prompts_at_the_cut(r: Recipe) -> str | None:
    if not r.split.deep_prompts or r.split.prompt_at != "cut":
        return None
    return (
        'split.deep_prompts begins behind the embeddings, and prompt_at = "cut" after the head\'s layers; set '
        'prompt_at = "input", or take deep_prompts out'
    )


@refuses("split.topk", "split.activations")
def _share_of_other_activations(r: Recipe) -> str | None:
    if r.split.topk == SplitSection().topk or r.split.activations == "topk":
        return None
    return (
        f'split.topk is read by activations = "topk" alone, and activations is "{r.split.activations}"; set the one or '
        "take the other out"
    )


@refuses("adapter.kind", "split.tail_layers")
def _adapter_without_a_layer(r: Recipe) -> str | None:
    trained = r.split.tail_layers or (r.split.train_head and r.split.head_layers)
    if not r.split.active or trained or r.adapter.kind in ("full", "peft", "prompt"):
        return None
    return (
        f'adapter.kind = "{r.adapter.kind}" sits on layers that the client trains, and tail_layers = 0 leaves none; '
        'set split.tail_layers to 1 or more, split.train_head = true, or kind = "full", which trains norm and head'
    )


@refuses("adapter.kind", "split.head_layers")
def _library_adapters_of_a_split_model(r: Recipe) -> str | None:
    if not r.split.active or r.adapter.kind != "peft":
        return None
    return (
        f'adapter.kind = "peft" ({as_toml(r.adapter.peft_type)}) wraps whole models, and this one is in parts; set '
        'kind to "full", "lora", "square" or "ravan", and split.prompt_tokens for soft prompts'
    )


@refuses("adapter.kind", "split.head_layers")
def _prompts_of_a_split_model(r: Recipe) -> str | None:
    if not r.split.active or r.adapter.kind != "prompt":
        return None
    return (
        'adapter.kind = "prompt" is for whole models: in a split one prompts stand beside what else the client trains; '
        'set split.prompt_tokens, and kind to "full", "lora", "square" or "ravan"'
    )


@refuses("adapter.init", "split.head_layers")
def _gradient_start_of_a_split_model(r: Recipe) -> str | None:
    if not r.split.active or not r.adapter.init.endswith("-gradient"):
        return None
    return (
        f'adapter.init = "{r.adapter.init}" reads gradients of the whole model, and no machine holds it here; set init '
        '= "weights" or "random"'
    )


@refuses("aggregation.scheme", "split.head_layers")
def _scheme_of_a_split_model(r: Recipe) -> str | None:
    if not r.split.active or r.aggregation.scheme == "mean":
        return None
    return (
        f'aggregation.scheme = "{r.aggregation.scheme}" is for adapters on a whole model: it knows no prompts, and '
        'moves weights that the other side holds; set scheme = "mean"'
    )


@refuses("training.scaffold", "split.local_epochs")
def _scaffold_over_two_phases(r: Recipe) -> str | None:
    if not r.training.scaffold or not r.split.local_epochs:
        return None
    return (
        "training.scaffold reads one mean gradient off a round, and split.local_epochs adds steps on another loss, "
        "that of the short circuit; set local_epochs = 0, or take scaffold out"
    )


@refuses("training.proximal", "split.local_epochs")
def _proximal_over_two_phases(r: Recipe) -> str | None:
    if not r.training.proximal or not r.split.local_epochs:
        return None
    return (
        "training.proximal pulls back to where the steps began, and after split.local_epochs that is no longer the "
        "global state; set local_epochs = 0, or proximal = 0"
    )


@refuses("training.compile", "split.head_layers")
def _compiled_parts(r: Recipe) -> str | None:
    if not r.split.active or not r.training.compile:
        return None
    return "training.compile compiles one whole model, and a split one is called in parts; set compile = false"


@refuses("training.gradient_checkpointing", "split.head_layers")
def _recomputed_parts(r: Recipe) -> str | None:
    if not r.split.active or not r.training.gradient_checkpointing:
        return None
    return (
        "training.gradient_checkpointing is for whole models: a client of a split one holds few layers; set it to "
        "false, and lower training.batch_size where memory is short"
    )


@refuses("model.quantization", "split.head_layers")
def _parts_in_four_bits(r: Recipe) -> str | None:
    if not r.split.active or r.model.quantization == "none":
        return None
    return (
        'model.quantization = "nf4" is for whole models: a split one is read tensor by tensor in fp32; set '
        'quantization = "none", or take [split] out'
    )
