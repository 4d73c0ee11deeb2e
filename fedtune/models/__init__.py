"""Base models: a name, a folder or a Hub id becomes a frozen model with its processor."""

from fedtune.models.base import LoadedModel
from fedtune.models.fingerprint import fingerprint
from fedtune.models.head import head_modules
from fedtune.models.image import ImageTransform
from fedtune.models.load import load_model

__all__ = ["ImageTransform", "LoadedModel", "fingerprint", "head_modules", "load_model"]
