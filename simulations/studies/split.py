"""The study of split learning: SFPrompt, its phases one by one, SplitFed, and federated training of whole models."""

from collections.abc import Mapping
from importlib import resources

from simulations.studies.plan import Contender, Plan, Settings

FULL, LORA, SFPROMPT = "federated-full", "federated-lora", "sfprompt"
LINEAR, TAIL = "splitfed-linear", "splitfed-tail"
WHOLE_SPLIT, SPLIT_LORA = "splitfed-full", "split-lora"
NO_PROMPT, NO_LOCAL, ALL_ROWS = ("split.prompt_tokens=0",), ("split.local_epochs=0",), ("split.keep=1.0",)
"""What takes one of its three parts out of SFPrompt."""
CUTS = ("split.head_layers=1", "split.tail_layers=1")
"""Where SFPrompt is cut, for those who do not take its name."""
WHOLE = (3e-5, 1e-4, 3e-4)
PARTS = (3e-4, 1e-3, 3e-3)
"""The learning rates to choose from, for weights of a whole model and for those of a tail."""


def _split(*settings: str, rates: tuple[float, ...] = PARTS) -> Contender:
    return Contender(method="sfprompt", settings=settings, rates=rates)


def _without(part: Settings) -> Contender:
    """SFPrompt less a part and nothing else: at its rate."""
    return Contender(method="sfprompt", settings=part, rate_of=SFPROMPT)


CONTENDERS = {
    FULL: Contender(settings=('method=""', "adapter.kind=full"), rates=WHOLE),
    LORA: Contender(method="fedit", settings=("adapter.rank=8", "adapter.targets=all-linear"), rates=PARTS),
    LINEAR: _split(
        "split.tail_layers=0", *NO_PROMPT, *NO_LOCAL, *ALL_ROWS, "training.head_lr=none", rates=(3e-3, 1e-2, 3e-2)
    ),
    TAIL: _split(*NO_PROMPT, *NO_LOCAL, *ALL_ROWS),
    WHOLE_SPLIT: _split(*NO_PROMPT, *NO_LOCAL, *ALL_ROWS, "split.train_head=true", "split.body=full", rates=WHOLE),
    SPLIT_LORA: Contender(
        settings=(
            'method=""',
            *CUTS,
            "split.train_head=true",
            "adapter.kind=lora",
            "adapter.rank=8",
            "adapter.targets=all-linear",
            "split.body=lora",
        ),
        rates=PARTS,
    ),
    SFPROMPT: _split(),
    "sfprompt-no-prompt": _without(NO_PROMPT),
    "sfprompt-no-local": _without(NO_LOCAL),
    "sfprompt-all-rows": _without(ALL_ROWS),
}
"""`splitfed-linear` trains the task's head and the norm before it, `splitfed-tail` the last layer with them;
`splitfed-full` trains all layers, those of the body at the coordinator (SplitFed v1, arXiv 2004.12088), and
`split-lora` adapters on all of them (SplitLoRA, arXiv 2407.00952)."""

SPLITS: dict[str, Settings] = {"dirichlet-0.5": ("data.partition.scheme=dirichlet", "data.partition.alpha=0.5")}
WORLDS = {"digits": "split_digits.toml", "reviews": "split_reviews.toml"}


def full() -> Mapping[str, Plan]:
    """By world: three rates, three seeds."""
    return {world: _plan(world, file) for world, file in WORLDS.items()}


def quick() -> Mapping[str, Plan]:
    """Every contender still, with one rate, one seed, two rounds and half of the rows."""
    few = {name: contender.model_copy(update={"rates": contender.rates[1:2]}) for name, contender in CONTENDERS.items()}
    settings = ("federation.rounds=2", "data.max_rows=200")
    changes = {"form": "quick", "contenders": few, "seeds": (1,), "settings": settings, "test_rows": 200}
    return {world: plan.model_copy(update=changes) for world, plan in full().items()}


def _plan(world: str, file: str) -> Plan:
    return Plan(
        form="full",
        about=f"split learning on {world}",
        base=(resources.files("simulations.studies") / file).read_text(encoding="utf-8"),
        test_rows=400,
        tuning_rows=300,
        contenders=CONTENDERS,
        splits=SPLITS,
        seeds=(1, 2, 3),
        tuning_split="dirichlet-0.5",
        tuning_seed=100,
    )
