"""The study of aggregation: every published method on one small federation, each at its own learning rate."""

from importlib import resources

from simulations.studies.plan import Contender, Plan, Settings

RATES = (1e-3, 3e-3, 1e-2)
"""The learning rates that every method chooses from."""
MORE_RATES = {"ffa-lora": 3e-2, "fedsvd": 3e-2, "fedsa-lora": 3e-4, "fed-sb": 3e-4}
"""One more for each method whose best was the first or last of those."""

LORA_METHODS = (
    "fedit",
    "ffa-lora",
    "rolora",
    "fedsa-lora",
    "fedex-lora",
    "flora",
    "flexlora",
    "hetlora",
    "lora-fair",
    "florist",
    "fedrot-lora",
    "fedsvd",
)

SHAPES: dict[str, Settings] = {
    **dict.fromkeys(LORA_METHODS, ("adapter.rank=8",)),
    "fed-sb": ("adapter.rank=64",),
    "ravan": ("adapter.rank=32", "adapter.heads=4"),
}
"""LoRA of rank 8 sends 8·(384 + 384) = 6 144 numbers a matrix; squares of 64² = 4·32² = 4 096 come closest below."""

CONTENDERS = {
    method: Contender(settings=shape, rates=tuple(sorted({*RATES, MORE_RATES.get(method, RATES[0])})))
    for method, shape in SHAPES.items()
}

SPLITS: dict[str, Settings] = {
    "iid": ("data.partition.scheme=iid",),
    "dirichlet-0.5": ("data.partition.scheme=dirichlet", "data.partition.alpha=0.5"),
    "dirichlet-0.1": ("data.partition.scheme=dirichlet", "data.partition.alpha=0.1"),
}


def full() -> Plan:
    """Three or four rates, three splits, three seeds."""
    return Plan(
        form="full",
        base=_base(),
        test_rows=400,
        contenders=CONTENDERS,
        splits=SPLITS,
        seeds=(1, 2, 3),
        tuning_split="dirichlet-0.5",
        tuning_seed=100,
    )


def quick() -> Plan:
    """Every method still, with two rates, two splits, one seed and fewer rounds."""
    wanted = full()
    return wanted.model_copy(
        update={
            "form": "quick",
            "contenders": {
                name: contender.model_copy(update={"rates": RATES[:2]}) for name, contender in wanted.contenders.items()
            },
            "splits": {name: SPLITS[name] for name in ("iid", "dirichlet-0.5")},
            "seeds": wanted.seeds[:1],
            "settings": ("federation.rounds=4",),
        }
    )


def _base() -> str:
    return (resources.files("simulations.studies") / "aggregation.toml").read_text(encoding="utf-8")
