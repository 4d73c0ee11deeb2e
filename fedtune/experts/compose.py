"""Several saved adapters, compressed or plain, as one."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from fedtune.adapters.read import adapter_of
from fedtune.adapters.saved import COMPRESSED, SavedAdapter
from fedtune.compression.masks import Masks
from fedtune.errors import AdapterError
from fedtune.experts import ties
from fedtune.experts.alike import check_same_factors, check_same_model
from fedtune.experts.arithmetic import combine, mean_head
from fedtune.experts.compressed import Compressed, read_compressed
from fedtune.experts.expert import Expert, read_plain
from fedtune.experts.lorahub import Found, find_weights
from fedtune.experts.scoring import Bench
from fedtune.state import State

Method = Literal["task-arithmetic", "ties", "lorahub"]


class Composer:
    """Adapters that belong to one model, ready to be composed with any weights.

    Compressed ones stay so until a method asks for all their numbers. Raises AdapterError, in one sentence that says
    what differs, where they do not belong together.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        if len(folders) < 2:
            raise AdapterError("merging takes two adapters at least; name more folders")
        self._sources = [_open(folder) for folder in folders]
        self._outlines = [found.outline() if isinstance(found, Compressed) else found for found in self._sources]
        self._shapes = [outline.adapter() for outline in self._outlines]
        check_same_model([str(folder) for folder in folders], self._shapes)

    @cached_property
    def adapters(self) -> list[SavedAdapter]:
        """All of them, decoded."""
        return [_decoded(source).adapter() for source in self._sources]

    def task_arithmetic(self, weights: Sequence[float]) -> SavedAdapter:
        """Σ wᵢ·ΔWᵢ, exactly (`fedtune.experts.arithmetic`)."""
        return combine(self.adapters, weights)

    def ties(self, weights: Sequence[float], density: float) -> SavedAdapter:
        """TIES of the factors (`fedtune.experts.ties`); raises AdapterError where ranks or scales differ.

        Adapters that were all compressed to at most this density are merged as masks, two bits a number.
        """
        check_same_factors(self._outlines, self._shapes)
        masks = self._masks(density)
        if masks:
            vector = ties.elect_and_average_masks(masks, weights)
        else:
            vector = ties.elect_and_average([ties.trim(_decoded(s).deltas, density) for s in self._sources], weights)
        first = self._outlines[0]
        head = mean_head([self._head(position) for position in range(len(self._sources))], weights)
        return adapter_of(first.folder, {**ties.unflatten(vector, first.deltas), **head})

    def lorahub(self, bench: Bench, *, steps: int, seed: int, l1: float) -> Found:
        """The weights of task arithmetic with the least loss on the bench's examples (`fedtune.experts.lorahub`)."""
        return find_weights(
            lambda weights: bench.choose(self.task_arithmetic(weights)).loss,
            len(self._sources),
            steps=steps,
            seed=seed,
            l1=l1,
        )

    def _masks(self, density: float) -> list[tuple[Masks, float]]:
        """Those of all; empty where one is plain, denser, of several scales, or has its head in the same stream."""
        found = []
        for source in self._sources:
            if not isinstance(source, Compressed) or source.header.density > density:
                return []
            masks = source.masks() if all(map(source.config.is_delta, source.header.coded)) else None
            if masks is None:
                return []
            found.append(masks)
        return found

    def _head(self, position: int) -> State:
        outline = self._outlines[position]
        whole = not any(tensor.is_meta for tensor in outline.others.values())
        return (outline if whole else _decoded(self._sources[position])).others


def _open(folder: Path) -> Compressed | Expert:
    return read_compressed(folder) if (folder / COMPRESSED).is_file() else read_plain(folder)


def _decoded(source: Compressed | Expert) -> Expert:
    return source.expert() if isinstance(source, Compressed) else source
