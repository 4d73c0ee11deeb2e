"""Which adapters can be composed: where they cannot, one sentence says what differs."""

from collections.abc import Sequence

from fedtune.adapters.check import difference
from fedtune.adapters.saved import SavedAdapter
from fedtune.errors import AdapterError
from fedtune.experts.expert import Expert
from fedtune.state import Shapes, shapes_of


def check_same_model(names: Sequence[str], adapters: Sequence[SavedAdapter]) -> None:
    """Raise AdapterError unless all are LoRA of one base model, on the same layers, with heads of the same shapes.

    `names` are what the sentence calls them. Ranks and alphas may differ.
    """
    for name, adapter in zip(names[1:], adapters[1:], strict=True):
        if problem := _difference(adapters[0], adapter):
            raise AdapterError(f"{name} cannot be merged with {names[0]}: it {problem}")


def check_same_factors(experts: Sequence[Expert], adapters: Sequence[SavedAdapter]) -> None:
    """Raise AdapterError unless factors can be merged number by number: equal ranks and equal scales α/r.

    `adapters` are those of `experts`, and `check_same_model` has let them through.
    """
    first = experts[0]
    for expert, adapter in zip(experts[1:], adapters[1:], strict=True):
        for module, rank in adapters[0].ranks().items():
            if adapter.ranks()[module] != rank:
                raise AdapterError(
                    f"{expert.folder} has rank {adapter.ranks()[module]} on {module} and {first.folder} rank {rank}: "
                    f"only task-arithmetic and lorahub compose different ranks"
                )
        if other := [module for module in adapters[0].products if _scale(expert, module) != _scale(first, module)]:
            raise AdapterError(
                f"{expert.folder} scales {other[0]} by {_scale(expert, other[0]):g} and {first.folder} by "
                f"{_scale(first, other[0]):g} (lora_alpha / r): only task-arithmetic and lorahub compose those"
            )


def _difference(first: SavedAdapter, other: SavedAdapter) -> str:
    if other.base != first.base:
        return f"is for the base model {other.base!r}, not {first.base!r}"
    if other.transposed != first.transposed:
        return "holds the weights of its layers the other way round (fan_in_fan_out)"
    if problem := difference(_layers(other), _layers(first)):
        return f"{problem} among the layers that it adapts"
    if problem := difference(shapes_of(other.head), shapes_of(first.head)):
        return f"{problem} in its task head"
    return ""


def _layers(adapter: SavedAdapter) -> Shapes:
    """(out, in) by layer."""
    return {name: (len(b), a.shape[1]) for name, (a, b) in adapter.products.items()}


def _scale(expert: Expert, module: str) -> float:
    return expert.config.scale_of(module)
