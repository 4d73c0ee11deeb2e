"""A deployed client keeps what it computes of its rows in memory, as much as its own side says, and nowhere else."""

from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

from client.app import place
from fedtune.cohort.room import USUAL, Room
from fedtune.errors import RunError


def context(folder: Path, **config: str | float) -> Context:
    """A node's configuration."""
    rows = folder / "rows.jsonl"
    rows.touch()
    config |= {"data": str(rows), "keep": str(folder / "keep"), "budget": str(folder / "budget")}
    return Context(run_id=1, node_id=1, node_config=config, state=RecordDict(), run_config={})


@pytest.mark.parametrize(
    ("config", "expected"), [({}, USUAL), ({"cache-gb": 0.5}, Room(500_000_000)), ({"cache-gb": "0"}, Room(0))]
)
def test_the_room_is_what_the_client_says(config: dict[str, str | float], expected: Room, tmp_path: Path) -> None:
    room = place(context(tmp_path, **config))._room
    assert (room, room.folder) == (expected, None)


@pytest.mark.parametrize("gb", [-1.0, 1e6, float("nan")])
def test_memory_that_is_not_there_is_a_sentence(gb: float, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="--cache-gb must be between 0 and the "):
        place(context(tmp_path, **{"cache-gb": gb}))
