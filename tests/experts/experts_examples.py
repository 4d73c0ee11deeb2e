"""Small adapters on a tiny BERT, trained only by chance, and what they add to each layer in double precision."""

import json
from pathlib import Path

import torch

from fedtune.adapters.read import read_adapter
from fedtune.adapters.saved import CONFIG, WEIGHTS
from fedtune.compression.kept import budget
from fedtune.experts.expert import Expert
from tests.adapters.adapter_models import attached_to

PEFT_IA3 = {"kind": "peft", "init": "random", "peft_type": "ia3"}


def make_adapter(folder: Path, base: Path, *, seed: int = 0, name: str = "tiny", **section: object) -> Path:
    """A PEFT folder with seeded weights; LoRA of rank 4 on the attention unless `section` says otherwise."""
    _, attached = attached_to(
        base, "bert", **{"kind": "lora", "init": "kaiming", "alpha": 6.0, "targets": "attention", **section}
    )
    draw = torch.Generator().manual_seed(seed)
    attached.load({n: t + 0.2 * torch.randn(t.shape, generator=draw) for n, t in attached.read().items()})
    attached.save(folder, base=name)
    return folder


def change_config(folder: Path, **fields: object) -> Path:
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return folder


def products_of(folder: Path) -> dict[str, torch.Tensor]:
    """ΔW by layer, double precision."""
    return {name: b.double() @ a.double() for name, (a, b) in read_adapter(folder).products.items()}


def flat(expert: Expert) -> torch.Tensor:
    """The task vector, names sorted."""
    return torch.cat([expert.deltas[name].reshape(-1) for name in sorted(expert.deltas)])


def largest(vector: torch.Tensor, density: float) -> torch.Tensor:
    """The mask of the largest share, by sorting."""
    mask = torch.zeros(len(vector), dtype=torch.bool)
    mask[vector.abs().sort(descending=True, stable=True).indices[: budget(len(vector), density)]] = True
    return mask


def size(folder: Path, name: str = WEIGHTS) -> int:
    return (folder / name).stat().st_size
