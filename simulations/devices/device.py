"""One client's device: its speed, its link and its latency, drawn from (seed, client)."""

from dataclasses import dataclass

from fedtune.recipe.simulation import SimulationSection
from simulations.devices.draws import log_normal, uniform


@dataclass(frozen=True, slots=True)
class Device:
    """Rates are infinite where something takes no time."""

    rows_per_s: float
    """Rows that it trains on in a second."""
    down_bytes_per_s: float
    up_bytes_per_s: float
    latency_s: float
    """Of one exchange, both ways together."""


def device_of(section: SimulationSection, seed: int, client: str) -> Device:
    """The device of a client: the same in every round, whatever other clients there are."""
    link = log_normal(section.bandwidth_spread, seed, "device-link", client=client)
    return Device(
        rows_per_s=_rate(
            _speed(section, seed, client) * log_normal(section.speed_spread, seed, "speed", client=client)
        ),
        down_bytes_per_s=_rate(section.down_mbps * 1e6 / 8 * link),
        up_bytes_per_s=_rate(section.up_mbps * 1e6 / 8 * link),
        latency_s=section.latency_s * log_normal(section.latency_spread, seed, "latency", client=client),
    )


def read_class(entry: str) -> tuple[str, float, float]:
    """`"phone=0.7:4"` as its name, weight and rows a second."""
    name, _, numbers = entry.partition("=")
    share, _, speed = numbers.partition(":")
    return name, float(share), float(speed)


def _speed(section: SimulationSection, seed: int, client: str) -> float:
    if not section.device_classes:
        return section.rows_per_s
    classes = [read_class(entry) for entry in section.device_classes]
    place = uniform(seed, "device-class", client=client) * sum(share for _, share, _ in classes)
    for _, share, speed in classes:
        place -= share
        if place < 0:
            return speed
    return classes[-1][2]


def _rate(value: float) -> float:
    return value or float("inf")
