"""How many numbers a client trains and sends: of its layers, of an adapter on them, of norm, head and soft prompts."""

from dataclasses import dataclass

import torch

from fedtune.adapters.targets import ATTENTION_NAMES
from fedtune.aggregation.scheme import Layout
from fedtune.aggregation.traffic import state_numbers
from fedtune.compression import make_pipeline
from fedtune.recipe import AdapterSection, Recipe
from fedtune.seeds import generator
from fedtune.split.crossing import Ways
from fedtune.split.cut import Cut
from fedtune.split.outline import Map, Maps, Outline

SAMPLE = 256
"""The side of the random matrix whose encoded size says what a number of an update takes."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What is trained."""

    numbers: int
    added: int
    """Of them those that the base model has not: adapters and soft prompts."""
    maps: tuple[Map, ...]
    """The maps that an adapter adds to each trained layer; none where the layer's own weights are trained."""
    head: bool
    """Is the task head trained?"""

    @classmethod
    def whole(cls, outline: Outline) -> "Trained":
        """Full fine-tuning."""
        return cls(outline.whole, 0, (), head=True)

    def update(self, recipe: Recipe) -> Ways:
        """Bytes of a round's update, compressed as the recipe has it, and of the state that comes down."""
        return Ways(self.numbers * number_bytes(recipe), 4.0 * self.numbers)


def trained_of(recipe: Recipe, outline: Outline, cut: Cut) -> Trained:
    """What a client of a split trains: its tail, with `train_head` its head, the norm and task head, the prompts."""
    split, adapter = recipe.split, recipe.adapter
    layers = cut.tail + (cut.head if split.train_head else 0)
    deep = max(0, cut.client - 1) if split.deep_prompts else 0
    prompts = split.prompt_tokens * outline.width * (1 + deep)
    learns_head = adapter.head and outline.family.task != "causal-lm"  # what projects on embeddings stays with them
    head = outline.head if learns_head else 0
    if adapter.kind == "full":
        return Trained(layers * outline.layer + outline.norm + head + prompts, prompts, (), head=learns_head)
    targets = _targets(adapter, outline.maps)
    added = _numbers(adapter, targets * layers + _pooled(adapter, outline)) + prompts
    return Trained(added + head, added, _maps(adapter, targets), head=learns_head)


def lora_of(recipe: Recipe, outline: Outline, rank: int) -> tuple[str, Trained]:
    """LoRA on the whole model: the recipe's own, or one of `rank` on all linear maps."""
    own = recipe.adapter
    adapter = own if own.kind == "lora" else AdapterSection(kind="lora", rank=rank, head=own.head)
    targets = _targets(adapter, outline.maps)
    added = _numbers(adapter, targets * outline.layers + _pooled(adapter, outline))
    head = outline.head if adapter.head else 0
    return f"LoRA of rank {adapter.rank}", Trained(added + head, added, _maps(adapter, targets), head=adapter.head)


def number_bytes(recipe: Recipe) -> float:
    """Bytes that a number of an update takes, measured on a random matrix: 4 without compression."""
    sample = {"w": 1e-3 * torch.randn(SAMPLE, SAMPLE, generator=generator(0, "bytes"))}
    encoded = make_pipeline(recipe.compression).encode(sample, seed=0)
    return sum(t.numel() * t.element_size() for t in encoded.values()) / SAMPLE**2


def _numbers(adapter: AdapterSection, targets: list[Map]) -> int:
    rank = adapter.heads if adapter.kind == "ravan" else adapter.rank
    layout = Layout(adapter.form, targets, adapter.rank, rank, [rank], heads=adapter.heads)
    return state_numbers(layout, rank)


def _pooled(adapter: AdapterSection, outline: Outline) -> list[Map]:
    """The pooler's map, which all-linear adapters sit on too."""
    pooler = outline.family.pooler
    if pooler is None or adapter.targets != "all-linear":
        return []
    return [found for name, found in outline.head_maps.items() if f".{pooler}." in f".{name}."]


def _targets(adapter: AdapterSection, maps: Maps) -> list[Map]:
    """The maps of one layer that the adapter sits on."""
    wanted: tuple[str, ...] | str = adapter.targets
    if wanted == "all-linear":
        return list(maps.values())
    last = {name: name.rpartition(".")[2] for name in maps}
    if wanted == "attention":
        wanted = next((names for names in ATTENTION_NAMES if set(names) & set(last.values())), ())
    return [maps[name] for name in maps if any(f".{name}".endswith(f".{end}") for end in wanted)]


def _maps(adapter: AdapterSection, targets: list[Map]) -> tuple[Map, ...]:
    rank = adapter.rank * (adapter.heads if adapter.kind == "ravan" else 1)
    square = adapter.kind in {"square", "ravan"}
    return tuple(
        shape
        for out, in_ in targets
        for shape in ((rank, in_), (out, rank), *(((rank, adapter.rank),) if square else ()))
    )
