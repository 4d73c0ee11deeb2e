"""The plain pass: all rows padded to the longest, through the model's whole forward pass."""

from collections.abc import Sequence

import torch
from torch.nn.functional import pad

from fedtune.adapters.prompt_place import find_prompt
from fedtune.adapters.shift import Shift
from fedtune.cohort.base import Part, Predicted
from fedtune.cohort.lane import Lane
from fedtune.cohort.layout import Layout
from fedtune.data.base import Batch
from fedtune.training.forward import IGNORED, targets_of
from fedtune.training.resident import Resident


class PlainPass:
    """What every other pass has to agree with."""

    def __init__(self, resident: Resident, lane: Lane) -> None:
        self._resident, self._lane = resident, lane
        padding = getattr(resident.attached.model.config, "pad_token_id", None)
        self._prompt = (find_prompt(resident.attached.model) or ("", 0))[1]
        # A causal model that classifies finds a row's last token by this id.
        self._fill = {"input_ids": padding or 0, "labels": IGNORED}

    saves = False
    """It is the model's own pass."""

    def begin(self, shift: Shift) -> None:
        """Nothing is kept between passes."""

    def close(self) -> None:
        """Nothing is kept."""

    def notes(self) -> tuple[str, ...]:
        """Everything is computed."""
        return ()

    def tokens(self, part: Part) -> list[int]:
        """As many for each row as the longest of the part has; an image counts as its patches."""
        rows, indices = part
        batch = rows.batch(indices)
        size = batch["input_ids"].shape[1] if "input_ids" in batch else self._patches(batch["pixel_values"])
        return [self._prompt + size] * len(indices)

    def logits(self, parts: Sequence[Part], seeds: Sequence[int] = ()) -> Predicted:
        """One forward pass over all parts, padded on the right; it has no masks of a row's own, so no seeds either."""
        if seeds:
            raise ValueError("a plain pass draws its masks for all rows together")
        self._lane.layout = Layout(tuple(len(indices) for _, indices in parts))
        batch = self._together([rows.batch(indices) for rows, indices in parts])
        on_device = {name: tensor.to(self._resident.device) for name, tensor in batch.items()}
        labels = targets_of(on_device)
        del on_device["labels"]
        with self._resident.autocast():
            logits = self._resident.attached.model(**on_device, **self._resident.extra).logits
        if labels.ndim == 1:
            return Predicted(logits, labels, torch.arange(len(labels), device=labels.device))
        learned = labels != IGNORED
        return Predicted(logits[:, :-1][learned], labels[learned], learned.nonzero()[:, 0])

    def _together(self, batches: Sequence[Batch]) -> Batch:
        return {name: _stacked([batch[name] for batch in batches], self._fill.get(name, 0)) for name in batches[0]}

    def _patches(self, pixels_NCHW: torch.Tensor) -> int:
        size = getattr(self._resident.attached.model.config, "patch_size", None) or 16
        side = size if isinstance(size, int) else size[0]
        return max(1, pixels_NCHW.shape[2] * pixels_NCHW.shape[3] // side**2)


def _stacked(tensors: Sequence[torch.Tensor], fill: int) -> torch.Tensor:
    """Tensors one after the other; (rows, tokens) ones are filled up to the longest."""
    if tensors[0].ndim != 2:
        return torch.cat(list(tensors))
    longest = max(tensor.shape[1] for tensor in tensors)
    return torch.cat([pad(tensor, (0, longest - tensor.shape[1]), value=fill) for tensor in tensors])
