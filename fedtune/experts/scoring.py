"""Scores a LoRA adapter that lies on the disk or in memory on a recipe's labelled rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from fedtune.adapters.head import PREFIX
from fedtune.adapters.saved import SavedAdapter
from fedtune.data.rows import EncodedRows
from fedtune.data.table import central_rows, with_labels
from fedtune.errors import AdapterError, DataError
from fedtune.recipe import AdapterSection, Recipe, SplitSection
from fedtune.seeds import generator
from fedtune.state import State
from fedtune.training.base import Score
from fedtune.training.resident import Resident
from fedtune.training.sequential import SequentialStep


@dataclass(frozen=True, slots=True)
class Bench:
    """A recipe's model with room for an adapter, some of its test rows to choose by, and all others to report on.

    Guarantees: no row is in both; scoring one adapter leaves no trace in the score of the next.
    """

    step: SequentialStep
    resident: Resident
    examples: EncodedRows
    rest: EncodedRows

    @classmethod
    def of(cls, recipe: Recipe, like: Sequence[SavedAdapter], *, examples: int) -> "Bench":
        """Load the recipe's model with LoRA layers wide enough for adapters `like` these, stacked.

        The examples are drawn by `run.seed` from the recipe's test rows. Raises DataError where it keeps none,
        AdapterError or ModelError where the model has not the adapters' layers.
        """
        recipe = with_labels(recipe)
        section = AdapterSection(
            kind="lora", init="kaiming", rank=_rank(like), targets=tuple(like[0].products), head=bool(like[0].head)
        )
        # Whole, also where the recipe splits the model: saved adapters are named as in the whole one.
        resident = Resident.build(recipe.model_copy(update={"adapter": section, "split": SplitSection()}))
        if strangers := set(resident.attached.targets()) ^ set(like[0].products):
            raise AdapterError(
                f"the layers of {recipe.model.name} are not those of the adapters: see {min(strangers)!r}"
            )
        rows = central_rows(recipe, resident.loaded)
        if rows is None or len(rows) < 2:
            raise DataError("the recipe keeps no test rows to choose by: set data.test_fraction or data.test_source")
        order = torch.randperm(len(rows), generator=generator(recipe.run.seed, "experts")).tolist()
        count = min(examples, len(rows) - 1)
        chosen, rest = rows.subset(sorted(order[:count])), rows.subset(sorted(order[count:]))
        return cls(SequentialStep(resident), resident, chosen, rest)

    def choose(self, adapter: SavedAdapter) -> Score:
        """The score on the examples; raises AdapterError where the adapter does not fit."""
        return self.step.evaluate(self._state(adapter), self.examples)

    def report(self, adapter: SavedAdapter) -> Score:
        """The score on the rows that nothing was chosen by; raises AdapterError where the adapter does not fit."""
        return self.step.evaluate(self._state(adapter), self.rest)

    def _state(self, adapter: SavedAdapter) -> State:
        """The adapter as the resident's state: factors with zeros up to the rank, the head where it is trained."""
        wanted = self.resident.shapes()
        state = {}
        for name, (a, b) in adapter.products.items():
            room = self.resident.attached.slots - len(a)
            state[f"{name}.lora_A"] = functional.pad(a, (0, 0, 0, room))
            state[f"{name}.lora_B"] = functional.pad(b, (0, room))
        head = {f"{PREFIX}{name}": tensor for name, tensor in adapter.head.items()}
        return {**state, **{name: tensor for name, tensor in head.items() if name in wanted}}


def _rank(like: Sequence[SavedAdapter]) -> int:
    """What the stacked factors of a layer take at the most."""
    return max(
        min(sum(len(found.products[name][0]) for found in like), len(b), a.shape[1])
        for name, (a, b) in like[0].products.items()
    )
