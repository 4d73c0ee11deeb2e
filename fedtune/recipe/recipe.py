"""The recipe: every choice of a run in one frozen object, shared by simulation, deployment and audit."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic.main import IncEx

from fedtune.recipe.adapter import AdapterSection
from fedtune.recipe.aggregation import AggregationSection
from fedtune.recipe.base import Section
from fedtune.recipe.compression import CompressionSection
from fedtune.recipe.data import DataSection
from fedtune.recipe.federation import FederationSection
from fedtune.recipe.model import ModelSection
from fedtune.recipe.privacy import PrivacySection
from fedtune.recipe.run import RunSection
from fedtune.recipe.simulation import SimulationSection
from fedtune.recipe.split import SplitSection
from fedtune.recipe.training import TrainingSection

PRIVATE_TO_COORDINATOR: Mapping[str, IncEx | bool] = {
    "run": True,
    "federation": True,
    "data": {"source", "partition", "test_source", "test_fraction", "max_rows"},
    "adapter": {"init_source"},
    "simulation": True,
}
"""What a client is not told: paths, names and plans that are the coordinator's own affair."""


class Recipe(Section):
    """One run, resolved: every field has its value."""

    method: str = ""
    """A published method, for example `fed-sb`, `fedex-lora` or `ravan`: it settles what is left open of the adapter's
    kind and start and of the aggregation. Empty for none."""
    model: ModelSection
    data: DataSection = DataSection()
    adapter: AdapterSection = AdapterSection()
    aggregation: AggregationSection = AggregationSection()
    compression: CompressionSection = CompressionSection()
    privacy: PrivacySection = PrivacySection()
    federation: FederationSection = FederationSection()
    training: TrainingSection = TrainingSection()
    split: SplitSection = SplitSection()
    simulation: SimulationSection = SimulationSection()
    run: RunSection = RunSection()

    def for_clients(self) -> dict[str, Any]:
        """What a client needs to know, without defaults: JSON values that `from_coordinator` reads back."""
        shared = self.model_dump(mode="json", exclude_defaults=True, exclude=PRIVATE_TO_COORDINATOR)
        if self.privacy.unit == "client":  # a client's budget pays for the whole run: what the plan counts is public
            shared["federation"] = {"rounds": self.federation.rounds}
            if self.privacy.mechanism == "banded":
                shared["federation"]["clients_per_round"] = self.federation.clients_per_round
        return {**shared, "run": {"seed": self.run.seed}}

    @classmethod
    def from_coordinator(cls, shared: dict[str, Any]) -> "Recipe":
        """The recipe as a client sees it; pydantic's ValidationError where a key or value is not allowed."""
        return cls.model_validate_json(json.dumps(shared))

    def fingerprint(self) -> str:
        """16 hex digits over everything that both sides must resolve alike, defaults included."""
        both = self.model_dump(mode="json", exclude=PRIVATE_TO_COORDINATOR) | {"seed": self.run.seed}
        return hashlib.sha256(json.dumps(both, sort_keys=True).encode()).hexdigest()[:16]
