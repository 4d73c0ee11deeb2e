"""Random LoRA federations and their brute force: every client's product formed densely in float64 and averaged."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from hypothesis import strategies as st

from fedtune.adapters.base import Products
from fedtune.adapters.shift import NO_SHIFT, Shift
from fedtune.adapters.slots import Slots, choose_slots, narrow, narrow_shapes
from fedtune.aggregation.base import Aggregator, Contribution, Frame, Global
from fedtune.aggregation.scheme import Scheme
from fedtune.errors import AdapterError
from fedtune.recipe.aggregation import AggregationSection
from fedtune.state import State

Dense = dict[str, torch.Tensor]
"""ΔW (out, in) by module, float64."""

HEAD = {"head.weight": (3, 5), "head.bias": (3,)}
TWO_MODULES = {"blocks.0.q": (40, 60), "blocks.0.v": (50, 30)}
"""Large enough for a few clients' stacked factors to be smaller than the dense matrix."""

WEIGHTS = st.one_of(st.integers(1, 5000).map(float), st.sampled_from([1e-3, 1.0, 1e6]))
"""Of clients: counts of examples, and some that are very small or very large."""
SIZES = st.integers(1, 40)


def lora_frame(rank: int, *, modules: Mapping[str, tuple[int, int]] = TWO_MODULES, scale: float = 2.0) -> Frame:
    """The frame of a LoRA adapter with a task head."""
    shapes: dict[str, tuple[int, ...]] = dict(HEAD)
    for module, (out, in_) in modules.items():
        shapes |= {f"{module}.lora_A": (rank, in_), f"{module}.lora_B": (out, rank)}
    axes = {f"{module}.lora_A": (0,) for module in modules} | {f"{module}.lora_B": (1,) for module in modules}
    return Frame("lora", shapes, axes, rank, dict(modules), scale, seed=7, products=_no_products)


def _no_products(_state: State) -> Products:
    raise AdapterError("these schemes work on the factors alone")


def draw(shapes: Mapping[str, tuple[int, ...]], seed: int, size: float = 1.0) -> State:
    """Normal numbers of standard deviation `size`."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * size for name, shape in sorted(shapes.items())}


def random_world(frame: Frame, seed: int, *, shifted: bool = True) -> Global:
    """A global state in mid-run, on base weights that an earlier round has shifted."""
    shift = NO_SHIFT
    if shifted:
        parts = {f"{module}.U": (out, 2) for module, (out, _) in frame.modules.items()}
        parts |= {f"{module}.V": (2, in_) for module, (_, in_) in frame.modules.items()}
        shift = Shift().then(draw(parts, seed + 10_000, 0.1))
    return Global(draw(frame.shapes, seed), shift)


def leading(frame: Frame, rank: int) -> Slots:
    """The slots of a LoRA client of `rank`."""
    return choose_slots("lora", frame.slots, rank, seed=0, round_=1, client="")


def random_contributions(
    frame: Frame,
    weights: Sequence[float],
    seed: int,
    *,
    ranks: Sequence[int] = (),
    names: Iterable[str] | None = None,
    size: float = 1.0,
) -> list[Contribution]:
    """One contribution a weight, with a random delta for `names` (all) in the shapes of the client's rank (all)."""
    trained = {name: frame.shapes[name] for name in (frame.shapes if names is None else names)}
    found = []
    for i, weight in enumerate(weights):
        slots = leading(frame, ranks[i]) if ranks else None
        delta = draw(narrow_shapes(trained, frame.axes, slots), seed + 1 + i, size)
        found.append(Contribution(f"client-{i:02}", delta, weight, slots))
    return found


def run(aggregator: Aggregator, world: Global, contributions: Iterable[Contribution], round_: int = 3) -> Global:
    """One round."""
    aggregator.begin(world, round_)
    for contribution in contributions:
        aggregator.add(contribution)
    return aggregator.finish()


def run_scheme(
    scheme: Scheme,
    frame: Frame,
    world: Global,
    contributions: Iterable[Contribution],
    round_: int = 3,
    **settings: object,
) -> Global:
    """One round of a scheme with these settings of `[aggregation]`."""
    section = AggregationSection.model_validate(settings)
    return run(scheme.make(section, frame), world, contributions, round_)


def product(frame: Frame, state: Mapping[str, torch.Tensor], module: str) -> torch.Tensor:
    """scale·B·A (out, in)."""
    return frame.scale * state[f"{module}.lora_B"].double() @ state[f"{module}.lora_A"].double()


def whole_product(frame: Frame, world: Global) -> Dense:
    """What a federation adds to its base weights: the shift and the adapter."""
    shift = world.shift.dense()
    return {module: shift.get(module, 0.0) + product(frame, world.state, module) for module in frame.modules}


def client_product(frame: Frame, world: Global, contribution: Contribution, module: str) -> torch.Tensor:
    """scale·Bₖ·Aₖ (out, in) of a client after its training, the shift left out."""
    return product(frame, _trained(frame, world, contribution), module)


def _trained(frame: Frame, world: Global, contribution: Contribution) -> dict[str, torch.Tensor]:
    state = narrow(world.state, frame.axes, contribution.slots)
    return {name: state[name].double() + contribution.delta.get(name, torch.zeros(())).double() for name in state}


def _size(frame: Frame, world: Global, contribution: Contribution, module: str) -> float:
    sizes = {name: tensor.abs() for name, tensor in _trained(frame, world, contribution).items()}
    return float(product(frame, sizes, module).norm())


def mean_product(frame: Frame, world: Global, contributions: Sequence[Contribution]) -> Dense:
    """Σ pₖ·ΔWₖ over dense matrices, on top of the shift that all clients trained on."""
    total = sum(contribution.weight for contribution in contributions)
    shift = world.shift.dense()
    found = {}
    for module in frame.modules:
        terms = [c.weight / total * client_product(frame, world, c, module) for c in contributions]
        found[module] = shift.get(module, torch.zeros(())) + torch.stack(terms).sum(0)
    return found


def error(frame: Frame, world: Global, after: Global, contributions: Sequence[Contribution]) -> float:
    """How far the new product is from Σ pₖ·ΔWₖ, the largest over the modules.

    Relative to Σ pₖ·‖scale·|Bₖ|·|Aₖ|‖: what products lose to rounding is a share of their terms, which may cancel.
    """
    total = sum(contribution.weight for contribution in contributions)
    expected, found = mean_product(frame, world, contributions), whole_product(frame, after)
    worst = 0.0
    for module in frame.modules:
        size = sum(c.weight / total * _size(frame, world, c, module) for c in contributions)
        worst = max(worst, float((found[module] - expected[module]).norm()) / size)
    return worst
