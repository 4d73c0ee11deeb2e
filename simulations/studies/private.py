"""The study of private training: exact and other methods under DP-SGD at equal ε and δ, each at its own rate."""

from importlib import resources

from simulations.studies.plan import Contender, Plan, Settings

RATES = (1e-3, 3e-3, 1e-2)
"""The learning rates that every method chooses from, on public rows."""
EPSILONS = (1, 3, 8)
DELTA = 1e-5

CONTENDERS = {
    "fed-sb-weights": Contender(method="fed-sb", settings=("adapter.rank=32", "adapter.init=weights"), rates=RATES),
    "fed-sb-random": Contender(method="fed-sb", settings=("adapter.rank=32", "adapter.init=random"), rates=RATES),
    "fed-sb-dp-gradient": Contender(
        method="fed-sb", settings=("adapter.rank=32", "adapter.init=dp-gradient"), rate_of="fed-sb-random"
    ),
    "ffa-lora": Contender(settings=("adapter.rank=8",), rates=RATES),
    "fedit": Contender(settings=("adapter.rank=8",), rates=RATES),
    "fedsvd": Contender(settings=("adapter.rank=8",), rates=RATES),
    "ravan": Contender(settings=("adapter.rank=16", "adapter.heads=4"), rates=RATES),
}
"""Squares of 32² and 4·16² numbers a matrix, LoRA of 8·(384 + 384): the noise grows with the root of their number."""

SPLITS: dict[str, Settings] = {f"eps-{epsilon}": (f"privacy.epsilon={epsilon}",) for epsilon in EPSILONS}


def full() -> Plan:
    """Three rates, ε of 1, 3 and 8, three seeds."""
    return Plan(
        form="full",
        about="private training",
        base=(resources.files("simulations.studies") / "private.toml").read_text(encoding="utf-8"),
        test_rows=400,
        tuning_rows=400,
        contenders=CONTENDERS,
        splits=SPLITS,
        seeds=(1, 2, 3),
        tuning_split="eps-3",
        tuning_seed=100,
    )


def quick() -> Plan:
    """Every method still, at ε = 3 alone, with two rates, one seed and fewer rounds."""
    wanted = full()
    few = {name: c.model_copy(update={"rates": RATES[:2]}) if c.rates else c for name, c in wanted.contenders.items()}
    changes = {
        "form": "quick",
        "contenders": few,
        "splits": {"eps-3": SPLITS["eps-3"]},
        "seeds": wanted.seeds[:1],
        "settings": ("federation.rounds=3",),
    }
    return wanted.model_copy(update=changes)
