"""What accounting costs and how close it is: seconds, ε beside other accountants, and ε that rounding adds.

    python benchmarks/accounting.py [--all]

CPU seconds of one thread for one answer, nothing remembered from earlier ones. `--all` also asks the other accountants
for runs of a thousand different events, which takes minutes; not PRV, which takes gigabytes for them.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from fedtune.privacy.accounting import calibrate, composition, epsilon_of, groups, risk
from fedtune.privacy.accounting.accountants import AccountantName
from fedtune.privacy.accounting.groups import groups_of, rounding
from fedtune.privacy.accounting.step import step
from fedtune.privacy.events import Event

DELTA = 1e-5
BAR_S = 5.0
ACCOUNTANTS: tuple[AccountantName, ...] = ("pld", "dp-accounting", "rdp", "prv")
Run = list[Event]


def event(sigma: float, rate: float = 1.0, count: int = 1) -> Event:
    return Event(noise_multiplier=float(sigma), sampling_rate=float(rate), count=count)


def runs() -> dict[str, Run]:
    """Runs of a thousand rounds, but the first and the last two."""
    draw = np.random.default_rng(0)
    kinds = [event(0.8 + 0.1 * i, 0.01 + 0.002 * (i % 5)) for i in range(20)]
    return {
        "10,000 equal steps": [event(0.8, 0.004, 10_000)],
        "8 kinds": [kinds[i % 8] for i in range(1000)],
        "20 kinds": [kinds[i % 20] for i in range(1000)],
        "1,000 noises, 1 to 2": [event(1 + i / 1000, 0.01) for i in range(1000)],
        "1,000 noises and rates": [event(s, q) for s, q in draw.uniform((0.6, 0.005), (3.0, 0.05), (1000, 2))],
        "3,000 noises, 1 to 2": [event(1 + i / 3000, 0.004) for i in range(3000)],
        "3,000 noises and rates": [event(s, q) for s, q in draw.uniform((1.0, 0.01), (1.3, 0.012), (3000, 2))],
    }


def forget() -> None:
    """Nothing composed, no step."""
    composition._composed.cache_clear()
    step.cache_clear()


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and its CPU seconds."""
    forget()
    start = time.process_time()
    return work(), time.process_time() - start


def different(run: Sequence[Event]) -> int:
    """How many different sampled Gaussians."""
    return len({(one.noise_multiplier, one.sampling_rate) for one in run})


def compare(found: dict[str, Run], everything: bool) -> None:
    print(f"ε at δ = {DELTA:g} (CPU s); bar: pld of a thousand heterogeneous rounds in {BAR_S:g} s")
    print(f"{'':<24}" + "".join(f"{name:>20}" for name in ACCOUNTANTS))
    for title, run in found.items():
        cells = []
        for name in ACCOUNTANTS:
            if name != "pld" and different(run) > (1000 if everything and name != "prv" else 100):
                cells.append("-")
                continue
            epsilon, seconds = timed(partial(epsilon_of, run, DELTA, name))
            cells.append(f"{epsilon:.4f} ({seconds:.2f})")
        print(f"{title:<24}" + "".join(f"{cell:>20}" for cell in cells), flush=True)


def round_off(found: dict[str, Run]) -> None:
    print("\nwhat rounding adds: different events, groups after it, its largest step, ε against unrounded (CPU s)")
    most = groups.MOST
    for title, run in found.items():
        if different(run) < 1000:
            continue
        groups.MOST = 10**9
        exact, exact_s = timed(partial(epsilon_of, run, DELTA))
        for limit in (most, 128):
            groups.MOST = limit
            share = rounding({(one.noise_multiplier, one.sampling_rate) for one in run})
            epsilon, seconds = timed(partial(epsilon_of, run, DELTA))
            print(
                f"{title:<24}{different(run):>7}{len(groups_of(run)):>7}{share:>9.2%}{epsilon:>9.4f} ({seconds:.2f})"
                f"{exact:>9.4f} ({exact_s:.2f}){epsilon / exact - 1:>9.2%}",
                flush=True,
            )
    groups.MOST = most


def others() -> None:
    print("\nother answers, CPU s")
    sigma, seconds = timed(lambda: calibrate(lambda sigma: [event(sigma, 0.05, 200)], epsilon=3, delta=DELTA))
    print(f"  noise for ε = 3, q = 0.05, 200 steps: σ = {sigma:.4f} ({seconds:.2f})")
    sigma, seconds = timed(lambda: calibrate(lambda sigma: [event(sigma, 0.004, 10_000)], epsilon=3, delta=1e-6))
    print(f"  noise for ε = 3 at δ = 1e-6, q = 0.004, 10,000 steps: σ = {sigma:.4f} ({seconds:.2f})")
    table, seconds = timed(lambda: risk([event(1.0, 0.01, 1000)]))
    powers = ", ".join(f"{p.true_positive_rate:.2%} at {p.false_positive_rate:.1%}" for p in table.powers)
    print(f"  attack table of σ = 1, q = 0.01, 1,000 steps ({seconds:.2f}): found at most {powers} false alarms;")
    print(f"    advantage {table.advantage:.4f}, right guesses {table.accuracy:.2%}, covering μ = {table.gdp_mu:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    timed(lambda: epsilon_of([event(1.0, 0.1)], DELTA, "prv"))
    found = runs()
    compare(found, options.all)
    round_off(found)
    others()


if __name__ == "__main__":
    main()
