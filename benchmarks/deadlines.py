"""What a deadline with over-selection buys against waiting for all: virtual seconds a round, without any training.

    python benchmarks/deadlines.py [--recipe movie-stragglers] [--rounds 24] [--kilobytes 159]

The rounds of a recipe on its simulated devices, with the coordinator's own draws, deadlines and order of arrival; each
client is sent, and would send, so many kilobytes, and nothing is trained: what is measured is time and who is lost.
"""

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

WAYS: dict[str, dict[str, float]] = {
    "wait for all": {"over_select": 0.0, "deadline_s": 86_400.0},
    "deadline alone": {"over_select": 0.0},
    "deadline, over-selection": {},
}
"""What each changes of the recipe's `[federation]`."""


def rounds_of(recipe_name: str, way: dict[str, float], rounds: int, size: int) -> tuple[list[float], Counter[str]]:
    """Virtual seconds of each round, and how often each outcome came."""
    from fedtune.recipe.load import load_recipe
    from protos.flower import Message, make_reply
    from protos.payload import to_content
    from server.exchange import Exchange
    from server.roster import Roster
    from server.select import draw_by_seed
    from simulations.devices.make import make_devices
    from simulations.names import client_name, position_of
    from simulations.sampled import SampledParts
    from simulations.timed import TimedGrid

    recipe = load_recipe(recipe_name, [f"federation.{key}={value}" for key, value in way.items()])
    section, partition = recipe.federation, recipe.data.partition
    parts = SampledParts(np.zeros(9500, dtype=np.int64), partition, recipe.run.seed)
    names = [client_name(position) for position in range(partition.clients)]
    answer = to_content(b"u" * size)

    def work(jobs: Sequence[tuple[str, Message]]) -> Iterator[Message]:
        return (make_reply(answer, message) for _, message in jobs)

    devices = make_devices(recipe, names, lambda client: (parts.size(position_of(client)), 0))
    grid = TimedGrid(names, work, devices)
    roster = Roster(grid)
    exchange = Exchange(grid, roster, max_bytes=2 * size)
    seconds, outcomes = [], Counter[str]()
    for round_ in range(1, rounds + 1):
        began = grid.clock.now
        there = roster.wait_for(section.min_replies, told=lambda _: None)
        draw = draw_by_seed(section, there, seed=recipe.run.seed, round_=round_)
        payloads = dict.fromkeys(draw.clients, b"s" * size)
        good = 0
        asked = exchange.ask(payloads, message_type="train", round_=round_, deadline_s=section.deadline_s)
        for reply in asked:
            outcomes[reply.failure or "ok"] += 1
            good += not reply.failure
            if good == draw.enough:
                asked.close()
        seconds.append(grid.clock.now - began)
    return seconds, outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="movie-stragglers")
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--kilobytes", type=int, default=159)
    options = parser.parse_args()

    from fedtune.runs.words import seconds_text

    print(f"{'way':<26}{'updates':>9}{'late':>6}{'away':>6}{'a round':>15}{'longest':>15}{'in all':>15}")
    for name, way in WAYS.items():
        seconds, outcomes = rounds_of(options.recipe, way, options.rounds, 1000 * options.kilobytes)
        times = (statistics.median(seconds), max(seconds), sum(seconds))
        counts = f"{outcomes['ok']:>9}{outcomes['late']:>6}{outcomes['unavailable']:>6}"
        print(f"{name:<26}{counts}{''.join(f'{seconds_text(time):>15}' for time in times)}", flush=True)


if __name__ == "__main__":
    main()
