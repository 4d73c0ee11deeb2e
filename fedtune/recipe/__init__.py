"""The recipe: one TOML file that drives simulation, deployment and audit."""

from fedtune.recipe.adapter import AdapterSection
from fedtune.recipe.aggregation import AggregationSection
from fedtune.recipe.compression import CompressionSection
from fedtune.recipe.data import DataSection, PartitionSection
from fedtune.recipe.federation import FederationSection
from fedtune.recipe.model import ModelSection
from fedtune.recipe.privacy import PrivacySection
from fedtune.recipe.recipe import Recipe
from fedtune.recipe.run import RunSection
from fedtune.recipe.split import SplitSection
from fedtune.recipe.training import TrainingSection

__all__ = [
    "AdapterSection",
    "AggregationSection",
    "CompressionSection",
    "DataSection",
    "FederationSection",
    "ModelSection",
    "PartitionSection",
    "PrivacySection",
    "Recipe",
    "RunSection",
    "SplitSection",
    "TrainingSection",
]
