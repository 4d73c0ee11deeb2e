"""What the nonlinear LoRA schemes cost the coordinator for one layer of Llama-3-8B, beside an SVD of the dense sum.

    python benchmarks/server_cost.py [--clients 20] [--rank 16] [--dense q k gate down]

CPU seconds on one thread, the least of three. `--dense` names the layers whose (out, in) sum is also formed and given
to torch.linalg.svd in fp32, as FlexLoRA was published; all of them take about ten minutes. `lowrank` is
torch.svd_lowrank with two power iterations on the same sum. `excess` is how much farther than the best approximation
of the rank the result is from the sum.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch

from fedtune.adapters.lora_start import draw_a
from fedtune.aggregation import SCHEMES, Contribution, Frame, Global
from fedtune.aggregation.cores import directions
from fedtune.aggregation.stack import Factors, stack
from fedtune.recipe.aggregation import AggregationSection
from fedtune.state import Shapes

LAYERS = {"q": (4096, 4096), "k": (1024, 4096), "gate": (14336, 4096), "down": (4096, 14336)}
COUNT = {"q": 2, "k": 2, "gate": 2, "down": 1}
"""How many weights of a block have this shape: o is as q, v as k, up as gate."""
BLOCKS = 32
TIMES = 3
ROWS = {
    "mean (FedIT)": {"scheme": "mean"},
    "flora": {"scheme": "flora"},
    "fedex, factored": {"scheme": "fedex"},
    "fedex, truncated": {"scheme": "fedex", "residual": "truncated"},
    "lora-fair": {"scheme": "lora-fair"},
    "flexlora": {"scheme": "flexlora"},
    "florist": {"scheme": "florist"},
}
Result = TypeVar("Result")


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """CPU seconds of one call, and what it gave."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def federation(shape: tuple[int, int], rank: int, clients: int) -> tuple[Frame, Global, list[Contribution]]:
    """A layer in mid-run: clients depart from common factors in a common direction and each in one of its own."""
    out, in_ = shape
    shapes: Shapes = {"m.lora_A": (rank, in_), "m.lora_B": (out, rank)}
    axes = {"m.lora_A": (0,), "m.lora_B": (1,)}
    frame = Frame("lora", shapes, axes, rank, {"m": shape}, 2.0, 0, products=lambda _state: {})
    draw = torch.Generator().manual_seed(0)
    b = torch.randn(out, rank, generator=draw) * 1e-2
    world = Global({"m.lora_A": draw_a(rank, in_, seed=0, module="m"), "m.lora_B": b})
    common = {name: torch.randn(size, generator=draw) * 3e-3 for name, size in shapes.items()}
    found = []
    for i in range(clients):
        delta = {name: common[name] + torch.randn(size, generator=draw) * 1e-2 for name, size in shapes.items()}
        found.append(Contribution(f"client-{i:03}", delta, float(1 + i)))
    return frame, world, found


def run_round(settings: dict[str, str], frame: Frame, world: Global, contributions: list[Contribution]) -> Global:
    """One whole round of a scheme, from `begin` to `finish`."""
    section = AggregationSection.model_validate(settings)
    aggregator = SCHEMES[section.scheme].make(section, frame)
    aggregator.begin(world, 1)
    for contribution in contributions:
        aggregator.add(contribution)
    return aggregator.finish()


def stacked(world: Global, contributions: list[Contribution]) -> Factors:
    """Σpₖ·Bₖ·Aₖ as stacked factors."""
    total = sum(contribution.weight for contribution in contributions)
    terms = []
    for contribution in contributions:
        a, b = (world.state[name].double() + contribution.delta[name].double() for name in ("m.lora_A", "m.lora_B"))
        terms.append((contribution.weight / total * b, a))
    factors = stack(terms)
    assert factors is not None
    return factors


def dense_svd(factors: Factors, rank: int) -> Factors:
    """The best approximation from the dense sum, in fp32."""
    u, s, vt = torch.linalg.svd(factors[0].float() @ factors[1].float(), full_matrices=False)
    return u[:, :rank] * s[:rank], vt[:rank]


def lowrank_svd(factors: Factors, rank: int) -> Factors:
    """The randomised approximation from the dense sum, in fp32."""
    u, s, v = torch.svd_lowrank(factors[0].float() @ factors[1].float(), q=rank, niter=2)
    return u * s, v.T


def core_svd(factors: Factors, rank: int) -> Factors:
    """The best approximation through the core, in double precision."""
    return directions(factors).leading(rank)


WAYS: dict[str, Callable[[Factors, int], Factors]] = {"core": core_svd, "lowrank": lowrank_svd, "dense": dense_svd}
"""What finds the approximation."""


def schemes_table(rank: int, clients: int) -> None:
    print(f"\nwhole round of a scheme, CPU s a layer\n{'scheme':<20}" + "".join(f"{n:>9}" for n in LAYERS), end="")
    print(f"{'the model':>12}")
    federations = {name: federation(shape, rank, clients) for name, shape in LAYERS.items()}
    for row, settings in ROWS.items():
        seconds = {
            name: min(timed(partial(run_round, settings, *federated))[0] for _ in range(TIMES))
            for name, federated in federations.items()
        }
        model = BLOCKS * sum(COUNT[name] * value for name, value in seconds.items())
        print(f"{row:<20}" + "".join(f"{value:>9.2f}" for value in seconds.values()) + f"{model:>10.0f} s", flush=True)


def svd_table(rank: int, clients: int, measured: list[str]) -> None:
    print("\nbest rank-r approximation of the sum alone, CPU s (excess error)")
    print(f"{'layer':<7}{'shape':<12}{'core':>17}{'lowrank':>17}{'dense':>17}{'dense / core':>14}")
    for name, shape in LAYERS.items():
        factors = stacked(*federation(shape, rank, clients)[1:])
        product = factors[0] @ factors[1]
        optimum = float(directions(factors).values[rank:].norm())
        cells = {}
        for way, work in WAYS.items():
            if way != "dense" or name in measured:
                runs = [timed(partial(work, factors, rank)) for _ in range(TIMES)]
                left, right = runs[-1][1]
                excess = float((product - left.double() @ right.double()).norm()) / optimum - 1
                cells[way] = min(seconds for seconds, _ in runs), abs(excess)
        line = "".join(f"{seconds:>8.2f} ({excess:.0e})" for seconds, excess in cells.values())
        ratio = f"{cells['dense'][0] / cells['core'][0]:>13.0f}x" if "dense" in cells else "     not measured"
        print(f"{name:<7}{f'{shape[0]}x{shape[1]}':<12}{line}{ratio}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dense", nargs="*", choices=LAYERS, default=list(LAYERS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)  # svd_lowrank draws from the global state
    print(f"Llama-3-8B, {options.clients} clients of rank {options.rank}, one thread, torch {torch.__version__}")
    schemes_table(options.rank, options.clients)
    svd_table(options.rank, options.clients, options.dense)


if __name__ == "__main__":
    main()
