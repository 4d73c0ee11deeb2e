"""A real client's rows: one file or folder of its own, read when the first task says what its columns mean."""

from pathlib import Path

from client.bench import Bench
from fedtune.data.base import ClientData
from fedtune.data.client import client_data
from fedtune.data.encode import encode
from fedtune.data.source import load_table


class LocalData:
    """The rows at a path on this machine; nothing that a coordinator sends can name another."""

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        self._kept: tuple[str, ClientData] | None = None

    def __call__(self, client: str, bench: Bench) -> ClientData:
        """The rows, encoded for the bench's model; raises DataError where they do not fit the task."""
        if self._kept is None or self._kept[0] != bench.recipe_fingerprint:
            recipe = bench.recipe
            section = recipe.data.model_copy(update={"source": str(self._path)})
            table = load_table(section, model=recipe.model, seed=recipe.run.seed)
            rows = encode(table, bench.resident.loaded, recipe.model)
            data = client_data(rows, section, seed=recipe.run.seed, client=client)
            self._kept = (bench.recipe_fingerprint, data)
        return self._kept[1]
