"""Runs the audit of a split: public and private rows, the attacks at every depth, the labels at the recipe's cut."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fedtune.data.encode import encode
from fedtune.data.rows import EncodedRows
from fedtune.data.source import load_table
from fedtune.data.table import tables, with_labels
from fedtune.errors import DataError
from fedtune.privacy.noise import NoiseSource
from fedtune.recipe import Recipe
from fedtune.seeds import generator
from fedtune.split.cut import cut_of
from fedtune.split.outline import read_config
from fedtune.split.release import release_of
from simulations.audit.split.attack import read_images, read_texts
from simulations.audit.split.label_audit import audit_labels
from simulations.audit.split.result import Leak, SplitAudit
from simulations.audit.split.seen import Observer

Told = Callable[[Leak], None]


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is attacked, with how much that is public."""

    private: int
    public_texts: int
    public_images: int
    fits: bool
    """Are images fitted through the head too?"""


FULL = Extent(private=64, public_texts=1500, public_images=800, fits=True)
QUICK = Extent(private=32, public_texts=300, public_images=200, fits=False)


def audit_split(
    recipe: Recipe,
    extent: Extent = FULL,
    *,
    public: str = "",
    noise: NoiseSource | None = None,
    told: Told = lambda _: None,
) -> SplitAudit:
    """Attack what the recipe's clients would send, at every depth; `told` hears of each attack as it ends.

    The attacker's public rows are others of the recipe's own data, or of the source `public`. Raises FedtuneError.
    """
    started = time.monotonic()
    recipe = _split(with_labels(recipe) if recipe.data.source else recipe)
    release = release_of(recipe)
    layers = int(read_config(recipe.model).num_hidden_layers)
    cut = cut_of(recipe.split, read_config(recipe.model))
    observer = Observer(recipe, layers, noise=noise)
    images = recipe.model.task == "image-classification"
    known, private = _rows(recipe, observer, extent.public_images if images else extent.public_texts, extent, public)
    fitted = frozenset({0, 1, 2, 4, 6, layers - 1} if extent.fits else ())
    found = []
    attacks = read_images(observer, known, private, fitted=fitted) if images else read_texts(observer, known, private)
    for leak in attacks:
        found.append(leak)
        told(leak)
    return SplitAudit(
        model=recipe.model.name,
        source=recipe.data.source,
        task=recipe.model.task,
        measure="variance" if images else "tokens",
        layers=layers,
        private_rows=len(private),
        public_rows=len(known),
        public_source=public or recipe.data.source,
        activations=recipe.split.activations,
        noise_multiplier=recipe.split.noise_multiplier,
        clip=recipe.split.clip,
        leaks=tuple(found),
        labels=audit_labels(recipe, cut, private, noise=noise),
        release=release,
        recipe_fingerprint=recipe.fingerprint(),
        seconds=time.monotonic() - started,
    )


def _split(recipe: Recipe) -> Recipe:
    """The recipe with one layer in head and tail, where it is not split yet."""
    if recipe.split.active:
        return recipe
    return recipe.model_copy(update={"split": recipe.split.model_copy(update={"head_layers": 1})})


def _rows(
    recipe: Recipe, observer: Observer, wanted: int, extent: Extent, public: str
) -> tuple[EncodedRows, EncodedRows]:
    """(public, private) rows, drawn by the run's seed; no row is in both."""
    if not recipe.data.source:
        raise DataError("an audit needs data.source: rows to attack")
    table = tables(recipe.data, recipe.model, recipe.run.seed).train
    order = torch.randperm(len(table), generator=generator(recipe.run.seed, "split-audit")).tolist()
    private, rest = order[: extent.private], order[extent.private :]
    if public:
        section = recipe.data.model_copy(update={"source": public, "max_rows": wanted})
        model = recipe.model.model_copy(update={"labels": ()})  # another set has labels of its own, which nobody reads
        known = encode(load_table(section, model=model, seed=recipe.run.seed), observer.loaded, model)
    else:
        known = encode(table.select(sorted(rest[:wanted])), observer.loaded, recipe.model)
    if len(known) < 2 or len(private) < 2:
        raise DataError("there are too few rows to learn from some and attack others: take more rows")
    return known, encode(table.select(sorted(private)), observer.loaded, recipe.model)
