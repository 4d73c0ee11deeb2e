"""The frozen layers below the lowest adapter: computed once a row, and kept.

Shape suffixes: N = tokens of a stream, M = tokens that are read, D = model width.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fedtune.adapters.shift import NO_SHIFT, Shift, modules_of
from fedtune.cohort.attention import rows_apart
from fedtune.cohort.blocks import Source
from fedtune.cohort.cache import Kept, RowCache
from fedtune.cohort.lowest import holds_trained, touches
from fedtune.cohort.mapped import frozen_part
from fedtune.cohort.pack import Positions, pack
from fedtune.cohort.stream import Stream
from fedtune.cohort.tail import Stack
from fedtune.cohort.written import WRITTEN


@dataclass(frozen=True, eq=False)
class Begun:
    """What a layer and all behind it are computed from."""

    hidden: torch.Tensor
    """(1, N, D) of a stream of texts, (rows, N / rows, D) of images."""
    known: Mapping[str, torch.Tensor]
    """The layer's frozen projections by their names in it: (N, …), or (M, …) where the read tokens alone ask."""


class Prefix:
    """What the layers before `layer` make of each row, and that layer's frozen projections of it.

    A row's numbers do not depend on which rows are asked for with it on a CPU: there an image is computed alone, a text
    alone or with those that its source names. On other devices they do up to rounding.
    """

    def __init__(
        self,
        stack: Stack,
        layer: int,
        cache: RowCache,
        trained: Sequence[nn.Parameter],
        positions: Positions,
        *,
        selects: bool,
        project: bool = True,
    ) -> None:
        """`selects` where the layer's queries are those of the read tokens alone; `project` keeps projections too."""
        self.layer, self.cache = layer, cache
        self._stack, self._selects, self._positions = stack, selects, positions
        self._frozen = self._projections(trained) if project else ()
        self._shift = NO_SHIFT
        cache.begin(self.projections)

    def begin(self, shift: Shift) -> None:
        """Say what is added to the base weights: what was computed from others is not looked at."""
        self._shift = shift
        self.cache.begin(self.projections)

    @property
    def usable(self) -> bool:
        """Are the layers before this one as they were loaded?"""
        return not touches(modules_of(self._shift.tensors), self.layer)

    @property
    def projections(self) -> tuple[str, ...]:
        """The names in the layer of the projections that are kept, now."""
        prefix = f"{self._stack.model.base_model_prefix}.{self._stack.at}.{self.layer}."
        return () if {prefix + name for name in self._frozen} & set(modules_of(self._shift.tensors)) else self._frozen

    def texts(self, wanted: Sequence[Source]) -> Begun:
        """For the rows of a stream, each with where it comes from."""

        def compute(rows: list[int]) -> Iterator[tuple[Hashable, Kept]]:
            parts = list({wanted[row].name: wanted[row] for row in rows}.values())
            for some in [[one] for one in parts] if self._alone else [parts]:
                yield from self._texts(some)

        kept = self._look_up([one.key for one in wanted], compute)
        return Begun(torch.cat([row[0] for row in kept]).unsqueeze(0), self._joined(kept))

    def images(self, keys: Sequence[Hashable], pixels: Callable[[list[int]], torch.Tensor]) -> Begun:
        """For images, each with its key; `pixels` gives those at some places among them, (n, C, H, W)."""

        def compute(rows: list[int]) -> Iterator[tuple[Hashable, Kept]]:
            return zip([keys[row] for row in rows], self._images(pixels(rows)), strict=True)

        kept = self._look_up(keys, compute)
        return Begun(torch.stack([row[0] for row in kept]), self._joined(kept))

    def _look_up(
        self, keys: Sequence[Hashable], compute: Callable[[list[int]], Iterable[tuple[Hashable, Kept]]]
    ) -> list[Kept]:
        found = {key: self.cache.get(key) for key in dict.fromkeys(keys)}
        missing = [keys.index(key) for key, kept in found.items() if kept is None]
        # Not as inference tensors, which no later pass could be trained on.
        with torch.inference_mode(mode=False), torch.no_grad():
            for key, computed in compute(missing) if missing else ():
                found[key] = computed
                self.cache.put(key, computed)
        return [kept for key in keys if (kept := found[key]) is not None]

    def _joined(self, kept: Sequence[Kept]) -> dict[str, torch.Tensor]:
        return {name: torch.cat([row[at + 1] for row in kept]) for at, name in enumerate(self.projections)}

    def _texts(self, some: Sequence[Source]) -> Iterator[tuple[Hashable, Kept]]:
        """All rows of these parts that have a target, computed in one pass."""
        device = next(self._stack.base.parameters()).device
        packed = pack([one.part for one in some], self._positions, device)
        if packed is None:
            return
        more = {"use_cache": False} if self._stack.family.task == "causal-lm" else {}
        inputs = {
            "input_ids": packed.ids.unsqueeze(0).to(device),
            "position_ids": packed.positions.unsqueeze(0).to(device),
        }
        with rows_apart(configs_of(self._stack.model), packed.stream.all_to_all):
            hidden = self._stack.before(self.layer)(**inputs, **more).last_hidden_state
        keys = [one.key_at(place) for one in some for place in range(len(one.part[1]))]
        yield from zip([keys[row] for row in packed.rows], self._apart(hidden.squeeze(0), packed.stream), strict=True)

    def _images(self, pixels: torch.Tensor) -> list[Kept]:
        if self._alone and len(pixels) > 1:
            return [row for image in torch.split(pixels, 1) for row in self._images(image)]
        device = next(self._stack.base.parameters()).device
        hidden = self._stack.before(self.layer)(pixel_values=pixels.to(device)).last_hidden_state
        first = torch.zeros(1, dtype=torch.int64)
        stream = _stream([hidden.shape[1]] * len(hidden), [first] * len(hidden), device)
        return self._apart(hidden.flatten(0, 1), stream)

    def _apart(self, hidden_ND: torch.Tensor, stream: Stream) -> list[Kept]:
        """Each row's own tensors: its hidden states, then its projections."""
        layer: Any = self._stack.layers[self.layer] if self.projections else None
        lengths, reads = list(stream.lengths), list(stream.reads)
        columns = [torch.split(hidden_ND, lengths)]
        for name in self.projections:
            written = WRITTEN[self._stack.family.name]
            x = hidden_ND if written.norm is None else layer.get_submodule(written.norm)(hidden_ND)
            some = self._selects and name in written.queries
            y = frozen_part(layer.get_submodule(name))(x[stream.read] if some else x)
            columns.append(torch.split(y, reads if some else lengths))
        return [tuple(tensor.clone() for tensor in row) for row in zip(*columns, strict=True)]

    def _projections(self, trained: Sequence[nn.Parameter]) -> tuple[str, ...]:
        layers, written = self._stack.layers, WRITTEN.get(self._stack.family.name)
        if written is None or self.layer >= len(layers):
            return ()
        without = self._selects and self._stack.mixes
        names = written.queries if without else (*written.queries, *written.others)
        frozen = {name: frozen_part(layers[self.layer].get_submodule(name)) for name in names}
        norm = [layers[self.layer].get_submodule(written.norm)] if written.norm else []
        if any(holds_trained(module, trained) for module in norm):
            return ()
        return tuple(name for name, module in frozen.items() if not holds_trained(module, trained))

    @property
    def _alone(self) -> bool:
        """Is each image, and each source's part, computed by itself? A GPU would wait for each."""
        return next(self._stack.base.parameters()).device.type == "cpu"


def configs_of(model: nn.Module) -> list[Any]:
    """Every config that the model's modules look at."""
    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    return [config for config in configs.values() if hasattr(config, "_attn_implementation")]


def _stream(lengths: Sequence[int], inside: Sequence[torch.Tensor], device: torch.device) -> Stream:
    starts = torch.tensor([0, *lengths]).cumsum(0)[:-1]
    reads = tuple(map(len, inside))
    read = torch.cat(list(inside)) + starts.repeat_interleave(torch.tensor(reads))
    return Stream((len(lengths),), tuple(lengths), read.to(device), reads)
