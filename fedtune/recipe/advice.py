"""What a recipe may say and probably does not mean: carried out, with a sentence."""

from fedtune.recipe.problems import Problem
from fedtune.recipe.recipe import Recipe
from fedtune.recipe.rule import Rule, check, into

ADVICE: list[Rule] = []
"""Every piece of advice, in the order of this file."""

advises = into(ADVICE)


def advice(recipe: Recipe) -> list[Problem]:
    """What is to be said about `recipe` although it is carried out."""
    return check(ADVICE, recipe)


@advises("model.quantization", "training.device")
def _four_bits_on_a_cpu(r: Recipe) -> str | None:
    if r.model.quantization != "nf4" or r.training.device not in ("cpu", "mps"):
        return None
    return (
        f'model.quantization = "nf4" needs a CUDA GPU, and training.device is "{r.training.device}": the run will stop '
        'when it loads the model; set quantization = "none", or device = "cuda"'
    )


@advises("adapter.init", "method")
def _private_gradients_travel(r: Recipe) -> str | None:
    if r.adapter.init != "private-gradient" or r.privacy.unit != "none":
        return None
    return (
        'adapter.init = "private-gradient" has every client upload a whole gradient once, which says more of its rows '
        'than an adapter does; "weights", "random" and "public-gradient" read no private rows'
    )


@advises("training.scaffold", "aggregation.weights")
def _scaffold_counts_every_client_alike(r: Recipe) -> str | None:
    if not r.training.scaffold or r.aggregation.weights == "uniform":
        return None
    return (
        "training.scaffold goes to the optimum of the clients' mean loss, every client alike, whatever "
        f'aggregation.weights = "{r.aggregation.weights}" says; set weights = "uniform" to say the same twice'
    )


@advises("adapter.head", "model.task")
def _head_of_a_language_model(r: Recipe) -> str | None:
    if r.model.task != "causal-lm" or not r.adapter.head:
        return None
    return 'adapter.head = true has no effect: model.task = "causal-lm" has no classification head'


@advises("split.noise_multiplier", "split.delta")
def _noise_on_activations_alone(r: Recipe) -> str | None:
    if not r.split.noise_multiplier:
        return None
    return (
        "split.noise_multiplier covers the activations of each row and nothing else: what is trained goes up without "
        "noise at the end of each round; `fedtune split plan` says what it comes to over all rounds"
    )
