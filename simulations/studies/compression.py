"""The study of compression: Fed-SB and FedIT under codecs of many densities, against FedIT of rank 32 in fp32."""

from importlib import resources

from simulations.studies.plan import Contender, Plan, Settings

BASELINE = "fedit-r32-fp32"
SQUARE = "fed-sb-r32-fp32"
RATES = {"fedit": (2e-4, 5e-4, 1e-3), "fed-sb": (2e-3, 5e-3, 1e-2)}
"""The learning rates to choose from, for rank 32 without a codec; what else there is of a method takes the same."""

SPLITS: dict[str, Settings] = {"dirichlet-0.5": ("data.partition.scheme=dirichlet", "data.partition.alpha=0.5")}


def _stages(*names: str) -> str:
    return f"compression.upload=[{', '.join(names)}]"


def _ternary(percent: int, feedback: str = "auto") -> Settings:
    density, coded = f"compression.density={percent / 100}", _stages('"ternary"', '"entropy"')
    return coded, density, f"compression.feedback={feedback}"


def _fedit(*settings: str) -> Contender:
    return Contender(method="fedit", settings=("adapter.rank=32", *settings), rate_of=BASELINE)


def _fed_sb(*settings: str) -> Contender:
    return Contender(method="fed-sb", settings=("adapter.rank=32", *settings), rate_of=SQUARE)


def _tuned(contender: Contender) -> Contender:
    return contender.model_copy(update={"rates": RATES[contender.method], "rate_of": ""})


CONTENDERS = {
    BASELINE: _tuned(_fedit()),
    **{f"fedit-r32-ternary-{percent}": _fedit(*_ternary(percent)) for percent in (1, 5, 20, 50)},
    **{f"fedit-r32-ternary-{percent}-alone": _fedit(*_ternary(percent, "none")) for percent in (5, 20)},
    SQUARE: _tuned(_fed_sb()),
    "fed-sb-r32-int8": _fed_sb(_stages('"int8"', '"entropy"')),
    **{f"fed-sb-r32-ternary-{percent}": _fed_sb(*_ternary(percent)) for percent in (1, 5, 20, 50)},
    **{f"fed-sb-r32-ternary-{percent}-alone": _fed_sb(*_ternary(percent, "none")) for percent in (5, 20)},
    "fed-sb-r32-sign": _fed_sb(_stages('"sign"')),
}
"""`ternary-5` keeps 5 % with error feedback, `-alone` without it."""


def full() -> Plan:
    """Three rates for each method, three seeds."""
    return Plan(
        form="full",
        base=(resources.files("simulations.studies") / "compression.toml").read_text(encoding="utf-8"),
        test_rows=400,
        contenders=CONTENDERS,
        splits=SPLITS,
        seeds=(1, 2, 3),
        tuning_split="dirichlet-0.5",
        tuning_seed=100,
    )


def quick() -> Plan:
    """Every codec still, with two rates, one seed and fewer rounds."""
    wanted = full()
    few = {
        name: contender.model_copy(update={"rates": contender.rates[1:]})
        for name, contender in wanted.contenders.items()
    }
    changes = {"form": "quick", "contenders": few, "seeds": wanted.seeds[:1], "settings": ("federation.rounds=4",)}
    return wanted.model_copy(update=changes)
