"""Packed passes: rows without padding, the last layer on the tokens that count, the frozen layers from before."""

from collections.abc import Sequence
from typing import Any

import torch

from fedtune.adapters.prompt_place import find_prompt
from fedtune.adapters.shift import NO_SHIFT, Shift
from fedtune.cohort.attention import rows_apart
from fedtune.cohort.base import Part, Predicted
from fedtune.cohort.blocks import most_tokens, sources
from fedtune.cohort.cache import RowCache
from fedtune.cohort.dropping import base_drops, drops
from fedtune.cohort.keys import image_keys
from fedtune.cohort.lane import Lane
from fedtune.cohort.lowest import lowest_layer
from fedtune.cohort.pack import Packed, classes, images, pack, pixels_of
from fedtune.cohort.positions import positions_of
from fedtune.cohort.prefix import Begun, Prefix, configs_of
from fedtune.cohort.prompted import Prompted
from fedtune.cohort.prune import why_not_pruned
from fedtune.cohort.room import USUAL, Room
from fedtune.cohort.stream import Stream
from fedtune.cohort.tail import Stack
from fedtune.data.rows import EncodedRows
from fedtune.errors import ModelError
from fedtune.recipe import Recipe
from fedtune.split.family import check_split_task, family_of
from fedtune.training.resident import Resident

LAYER, PROJECTION = 12, 1
"""What a layer costs a token in squares of the model's width, and what a projection does."""


def why_not_packed(resident: Resident) -> str | None:
    """Why this model's passes are plain ones, to stand behind "because"; None where they can be packed."""
    model = resident.attached.model
    if resident.parts is not None:
        return "the model is split"
    try:
        family = family_of(model.config)
        check_split_task(resident.recipe.model.task, family)
        family.layers_of(model.get_submodule(str(model.base_model_prefix)))
    except (ModelError, AttributeError):
        return f"fedtune does not know where a {type(model).__name__} keeps its layers"
    if any(getattr(module, "sliding_window", None) for module in model.modules()):
        return "its attention has a sliding window"
    if getattr(model.config, "is_encoder_decoder", False) or getattr(model.config, "add_cross_attention", False):
        return "it has an encoder beside its decoder"
    if getattr(model.config, "reorder_and_upcast_attn", False):
        return "its attention is computed in another order"
    return None


class PackedPass:
    """Passes of a model of a known family (`why_not_packed` says None), as `fedtune.cohort.base.Pass` has it.

    Guarantees: the same numbers as a plain pass up to rounding. `lane` may be None where one client's own layers are in
    the model.
    """

    def __init__(
        self,
        resident: Resident,
        lane: Lane | None,
        *,
        room: Room = USUAL,
        prune: bool = True,
        keep: bool = True,
        project: bool = True,
    ) -> None:
        """`room` is for what is kept of rows.

        `prune`, `keep` and `project` switch off the pruned last layer, the kept frozen layers and their projections.
        """
        self._resident, self._lane, self._room = resident, lane, room
        model: Any = resident.attached.model
        self._drops = drops(resident)
        self._stack = Stack(model, family_of(model.config), one_token=not (resident.bf16 or self._drops))
        self._configs = configs_of(model)
        self._tokens = 0
        self._prompt, self._longer = find_prompt(model) or ("", 0)
        self._positions = positions_of(self._stack, prompted=bool(self._prompt))
        self.unpruned = why_not_pruned(self._stack, resident.device) if prune else "it was not asked for"
        """Why the last layer computes all tokens; None where it computes those that count."""
        lowest = lowest_layer(resident, self._stack.family)
        self.unkept = _why_not_kept(resident, lowest) if keep else "it was not asked for"
        """Why nothing is kept of rows; None where the frozen layers' results are."""
        self._prefix: Prefix | None = None
        if self.unkept is None and isinstance(lowest, int):
            selects = self.unpruned is None and lowest == len(self._stack.layers) - 1
            trained = list(resident.attached.parameters().values())
            cache = RowCache(room.memory(resident.device), room.spill(resident.device))
            self._prefix = Prefix(
                self._stack, lowest, cache, trained, self._positions, selects=selects, project=project
            )
        self._neighbours = _neighbours(resident, self._prefix)

    @property
    def saves(self) -> bool:
        """Is something kept or pruned? Rows end to end alone bring one client nothing."""
        return self._prefix is not None or self.unpruned is None

    def begin(self, shift: Shift = NO_SHIFT) -> None:
        """Say what is added to the base weights in the passes that follow."""
        if self._prefix is not None:
            self._prefix.begin(shift)

    def close(self) -> None:
        """Forget what is kept of rows."""
        if self._prefix is not None:
            self._prefix.cache.close()

    def tokens(self, part: Part) -> list[int]:
        """What each row costs, in tokens that go through all layers: one that is kept up to the last costs little."""
        rows, indices = part
        if self._images:
            lengths, reads = [self._image_tokens(rows, indices)] * len(indices), [1] * len(indices)
        elif isinstance(rows, EncodedRows) and rows.classes is not None:
            lengths, reads = (rows.lengths[list(indices)] + self._longer).tolist(), [1] * len(indices)
        else:
            batch = rows.batch(indices)
            lengths, labels = (batch["attention_mask"].sum(dim=1) + self._longer).tolist(), batch["labels"]
            reads = [1] * len(indices) if labels.ndim == 1 else (labels[:, 1:] >= 0).sum(dim=1).tolist()
        each, read = self._shares()
        return [max(1, round(length * each + count * read)) for length, count in zip(lengths, reads, strict=True)]

    def logits(self, parts: Sequence[Part], seeds: Sequence[int] = ()) -> Predicted:
        """One forward pass over all parts; empty, and without a graph, where no row has a target."""
        if seeds and self._images:
            raise ValueError("images have no masks of their own")
        with self._resident.autocast():
            return self._image_logits(parts) if self._images else self._text_logits(parts, seeds)

    def notes(self) -> tuple[str, ...]:
        """What is not computed, or not each time, for a person."""
        said = [] if self._images else ["rows end to end without padding"]
        if self._drops:
            said.append("each row with dropout of its own")
        if self._prefix is not None:
            said.append(_kept_words(self._prefix, self._room))
        elif self._room.given:
            said.append(f"nothing kept of rows, because {self.unkept}")
        if self.unpruned is None:
            some = "answer tokens" if self._stack.family.task == "causal-lm" else "class token"
            said.append(f"last layer on the {some} alone")
        return tuple(said)

    def _text_logits(self, parts: Sequence[Part], seeds: Sequence[int]) -> Predicted:
        device = self._resident.device
        packed = pack(parts, self._positions, device, seeds, prompted=bool(self._prompt))
        if packed is None:
            return self._nothing()
        if self._prompt:
            return self._prompted_logits(packed)
        begun = None
        if self._prefix is not None and self._prefix.usable:
            begun = self._prefix.texts(sources(parts, packed, neighbours=self._neighbours))
        position_ids = packed.positions.unsqueeze(0).to(device)
        inputs = {"position_ids": position_ids}
        if begun is None:
            inputs["input_ids"] = packed.ids.unsqueeze(0).to(device)
        with rows_apart(self._configs, packed.stream.all_to_all, packed.stream.drops):
            logits = self._run(inputs, packed.stream, begun)
        return Predicted(logits, packed.targets.to(device), packed.owners.to(device))

    def _prompted_logits(self, packed: Packed) -> Predicted:
        """Rows with their clients' prompts before them: no layer is frozen before which nothing is trained."""
        device, model = self._resident.device, self._stack.model
        longer = Prompted.of(packed, self._longer, int(self._positions(torch.zeros(1, 1))))
        packed = longer.packed
        self._lay(packed.stream)
        words, rows = model.get_input_embeddings()(packed.ids.to(device)), model.get_submodule(self._prompt).rows
        inputs = {
            "position_ids": packed.positions.unsqueeze(0).to(device),
            "inputs_embeds": longer.embeddings(words, rows(len(packed.stream.lengths))),
        }
        with rows_apart(self._configs, packed.stream.all_to_all, packed.stream.drops):
            logits = self._run(inputs, packed.stream, None)
        return Predicted(logits, packed.targets.to(device), packed.owners.to(device))

    def _image_logits(self, parts: Sequence[Part]) -> Predicted:
        device = self._resident.device
        parts = [part for part in parts if len(part[1])] if self._lane is None else parts
        targets = torch.cat([classes(part) for part in parts if len(part[1])]).to(device)
        flat = [(rows, index) for rows, indices in parts for index in indices]
        if self._prefix is not None and self._prefix.usable:
            keys = [key for rows, indices in parts for key in (image_keys(rows, indices) if indices else ())]
            begun = self._prefix.images(keys, lambda some: pixels_of([flat[place] for place in some]))
            stream = images(parts, begun.hidden.shape[1], device)
            logits = self._run({}, stream, begun)
        else:
            stream = images(parts, self._image_tokens(*parts[0]), device)
            logits = self._run({"pixel_values": pixels_of(flat).to(device)}, stream, None)
        return Predicted(logits, targets, torch.arange(len(targets), device=device))

    def _run(self, inputs: dict[str, torch.Tensor], stream: Stream, begun: Begun | None) -> torch.Tensor:
        prune = self.unpruned is None
        self._lay(stream)
        if begun is None or self._prefix is None:
            return self._stack.run(inputs, stream, prune=prune)
        inputs = inputs | {self._stack.family.hidden: begun.hidden}
        return self._stack.run(inputs, stream, first=self._prefix.layer, known=begun.known, prune=prune)

    def _lay(self, stream: Stream) -> None:
        """Tell the cohort layers which rows are whose, and what is dropped of them."""
        if self._lane is not None:
            self._lane.layout, self._lane.drops = stream.layout(selects=self.unpruned is None), stream.drops

    def _nothing(self) -> Predicted:
        config, device = self._stack.model.config, self._resident.device
        none = torch.zeros(0, dtype=torch.int64, device=device)
        width = config.vocab_size if self._stack.family.task == "causal-lm" else config.num_labels
        return Predicted(torch.zeros(0, width, device=device), none, none)

    def _shares(self) -> tuple[float, float]:
        """What a token costs that is not read, and one that is beside that; 1 for one that goes through all layers."""
        layers = len(self._stack.layers)
        prefix = self._prefix if self._prefix is not None and self._prefix.usable else None
        first, known = (prefix.layer, prefix.projections) if prefix is not None else (0, ())
        each, read = (layers - first) * LAYER, 0
        if self.unpruned is None and first < layers:
            of_all = 0 if self._stack.mixes else 2
            each, read = each - LAYER + of_all * PROJECTION, LAYER - of_all * PROJECTION
            known = known[1:] if first == layers - 1 else known  # of the read tokens alone
        each -= len(known) * PROJECTION
        return max(each, PROJECTION) / (layers * LAYER), read / (layers * LAYER)

    @property
    def _images(self) -> bool:
        return self._stack.family.task == "image-classification"

    def _image_tokens(self, rows: Any, indices: Sequence[int]) -> int:
        """Patches, the class token and the prompt."""
        if not self._tokens and len(indices):
            pixels = rows.batch(indices[:1])["pixel_values"].to(self._resident.device)
            with torch.no_grad():  # without the hook by which a prompt comes in, for no pass is laid out yet
                self._tokens = self._stack.base.get_submodule(self._stack.family.embeddings).forward(pixels).shape[1]
        return max(1, self._tokens) + self._longer


def _why_not_kept(resident: Resident, lowest: int | str) -> str | None:
    training, rounds = resident.recipe.training, resident.recipe.federation.rounds
    if isinstance(lowest, str):
        return lowest
    if base_drops(resident):
        return "the model drops numbers at random, others each time"
    if lowest == 0:
        return "the first layer is trained"
    if training.steps is None and training.epochs * rounds == 1:
        return "each row is read once"
    return None


def _neighbours(resident: Resident, prefix: Prefix | None) -> int:
    """Up to how many tokens a table may have whose neighbours are computed together; 0: each row is computed alone."""
    if prefix is None or not _needs_neighbours(resident.recipe):
        return 0
    config: Any = resident.attached.model.config
    return most_tokens(config.hidden_size * (1 + len(prefix.projections)))


def _needs_neighbours(recipe: Recipe) -> bool:
    """Does a client read all of its rows in a round, and are they nobody else's? Then it is best to compute a row's
    neighbours with it; a row that many clients hold is best computed once, alone."""
    reads_all = recipe.training.steps is None and recipe.privacy.unit != "example"
    return reads_all and recipe.data.partition.scheme != "sampled"


def _kept_words(prefix: Prefix, room: Room) -> str:
    last = prefix.layer - 1
    layers = "layer 0" if last == 0 else f"layers 0-{last}"
    if room.none:
        return f"{layers} computed anew each time"
    kept = f"{layers} kept with the next one's projections" if prefix.projections else f"{layers} kept"
    return f"{kept} {room.words()}".rstrip()
