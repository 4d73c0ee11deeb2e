"""The study of aggregation: every published method on one small federation, each at its own learning rate."""

from importlib import resources

from simulations.studies.plan import Contender, Plan, Settings

LORA: Settings = ("adapter.rank=8",)
RATES = (1e-3, 3e-3, 1e-2)
"""The learning rates to choose from."""

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

CONTENDERS = {
    **{method: Contender(settings=LORA, rates=RATES) for method in LORA_METHODS},
    "fed-sb": Contender(settings=("adapter.rank=64",), rates=RATES),
    "ravan": Contender(settings=("adapter.rank=32", "adapter.heads=4"), rates=RATES),
}
"""LoRA of rank 8 sends 8·(384 + 384) = 6 144 numbers a matrix; squares of 64² = 4·32² = 4 096 come closest below."""

SPLITS: dict[str, Settings] = {
    "iid": ("data.partition.scheme=iid",),
    "dirichlet-0.5": ("data.partition.scheme=dirichlet", "data.partition.alpha=0.5"),
    "dirichlet-0.1": ("data.partition.scheme=dirichlet", "data.partition.alpha=0.1"),
}


def full() -> Plan:
    """Three rates, three splits, three seeds."""
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
                name: contender.model_copy(update={"rates": contender.rates[:2]})
                for name, contender in wanted.contenders.items()
            },
            "splits": {name: SPLITS[name] for name in ("iid", "dirichlet-0.5")},
            "seeds": wanted.seeds[:1],
            "settings": ("federation.rounds=4",),
        }
    )


def _base() -> str:
    return (resources.files("simulations.studies") / "aggregation.toml").read_text(encoding="utf-8")
