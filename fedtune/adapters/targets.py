"""Which layers of a model a recipe's `adapter.targets` means."""

from collections import Counter
from collections.abc import Callable, Iterable

from torch import nn

from fedtune.adapters.layers import is_adaptable
from fedtune.errors import AdapterError
from fedtune.models.base import LoadedModel
from fedtune.models.head import is_inside
from fedtune.suggest import did_you_mean, listed

ATTENTION_NAMES: tuple[tuple[str, ...], ...] = (
    ("query", "value"),
    ("q_proj", "v_proj"),
    ("q_lin", "v_lin"),
    ("query_proj", "value_proj"),
    ("q", "v"),
    ("c_attn",),
    ("query_key_value",),
    ("qkv_proj",),
    ("Wqkv",),
    ("qkv",),
)
"""What families call their query and value projections, separate or fused; the first row that a model has is meant."""

Layers = dict[str, nn.Module]


def resolve_targets(loaded: LoadedModel, wanted: str | tuple[str, ...]) -> tuple[str, ...]:
    """Dotted names of the layers to adapt, sorted: `all-linear`, `attention`, or names as in PEFT's `target_modules`.

    A name means every linear layer that is called so or ends in `.name`. Task head and output embeddings are never
    part of `all-linear`. Raises AdapterError where a name fits no layer, or one that cannot be adapted.
    """
    layers = {name: module for name, module in loaded.model.named_modules() if is_adaptable(module)}
    if isinstance(wanted, str):
        chosen = _NAMED_SETS[wanted](_body(loaded, layers))
    else:
        chosen = {found for name in wanted for found in _ending_in(name, loaded, layers)}
    if not chosen:
        raise AdapterError(
            f'adapter.targets = "{wanted}" fits no layer of {loaded.source}: name some of {_kinds(layers)}.'
        )
    _refuse_shared(loaded.model, chosen)
    return tuple(sorted(chosen))


def _body(loaded: LoadedModel, layers: Layers) -> Layers:
    output = getattr(loaded.model, "get_output_embeddings", lambda: None)()
    return {name: m for name, m in layers.items() if m is not output and not is_inside(name, loaded.head)}


def _attention(layers: Layers) -> set[str]:
    for names in ATTENTION_NAMES:
        if found := {name for name in layers if _last(name) in names}:
            return found
    return set()


_NAMED_SETS: dict[str, Callable[[Layers], set[str]]] = {"all-linear": set, "attention": _attention}


def _ending_in(wanted: str, loaded: LoadedModel, layers: Layers) -> set[str]:
    found = {name for name in layers if f".{name}".endswith(f".{wanted}")}
    if inside := sorted(name for name in found if is_inside(name, loaded.head)):
        raise AdapterError(
            f'adapter.targets: "{inside[0]}" is the task head, which adapter.head = true trains whole; leave it out.'
        )
    if not found:
        raise AdapterError(_unknown(wanted, loaded.model, layers))
    return found


def _unknown(wanted: str, model: nn.Module, layers: Layers) -> str:
    others = [type(m).__name__ for name, m in model.named_modules() if name and f".{name}".endswith(f".{wanted}")]
    if others:
        what = f'"{wanted}" is of class {others[0]}, and only linear layers can be adapted'
    else:
        what = f'no linear layer is called "{wanted}"{did_you_mean(wanted, _suffixes(wanted, layers))}'
    return f"adapter.targets: {what}; this model has {_kinds(layers)}."


def _suffixes(wanted: str, layers: Layers) -> set[str]:
    """The ends of all names, as long in parts as the wanted one."""
    parts = wanted.count(".") + 1
    return {".".join(name.split(".")[-parts:]) for name in layers}


def _kinds(layers: Iterable[str]) -> str:
    return listed(sorted({_last(name) for name in layers}))


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _refuse_shared(model: nn.Module, chosen: set[str]) -> None:
    """A weight that is used in two places cannot be adapted, and merged, in one of them."""
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    for name in sorted(chosen):
        if uses[id(model.get_submodule(name).weight)] > 1:
            raise AdapterError(f'adapter.targets: "{name}" shares its weight with another module; leave it out.')
