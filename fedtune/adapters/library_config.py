"""Which methods of the `peft` library can be federated, and PEFT's config for one of them."""

from typing import Any

from fedtune.adapters.library_options import parse_options
from fedtune.adapters.saved import TASK_TYPES
from fedtune.adapters.targets import resolve_targets
from fedtune.errors import AdapterError
from fedtune.models.base import LoadedModel
from fedtune.recipe import AdapterSection
from fedtune.suggest import did_you_mean

UNFIT = {
    "lora": 'adapter.kind = "lora" is the same, and every aggregation scheme knows it',
    "adalora": "its ranks follow a schedule over all steps of a training, which clients of single rounds cannot keep",
    "cpt": "it needs the kind of every token beside the tokens",
    "multitask_prompt_tuning": "it needs the number of a task with every batch",
    "poly": "it needs the number of a task with every batch",
    "shadow": "it runs a second model with a loss of its own, which local steps do not add",
    "xlora": "it mixes adapters from files that clients do not have",
}
"""Methods that local steps cannot train as they train the others, and why."""

NOT_ON_LINEAR = ("ln_tuning", "trainable_tokens")
"""Methods for norms and embeddings, which would train a linear layer whole if they were put on one."""


def make_config(loaded: LoadedModel, section: AdapterSection, task: str) -> Any:
    """PEFT's config for `adapter.peft_type` with its settings; the task head is marked as no part of the adapter.

    `adapter.targets` other than its default stands for the method's own `target_modules`. Raises AdapterError for an
    unknown method or setting, or one that does not fit the model's task.
    """
    kind = config_class(section.peft_type)
    options = parse_options(section.peft_options, kind)
    if section.targets != "all-linear":
        if not hasattr(kind, "target_modules") or _spelt(section.peft_type) in NOT_ON_LINEAR:
            raise AdapterError(
                f'adapter.targets means linear layers, and "{section.peft_type}" sits on none; leave it out'
            )
        if "target_modules" in options:
            raise AdapterError("adapter.targets and target_modules in adapter.peft_options say the same; leave one out")
        options["target_modules"] = list(resolve_targets(loaded, section.targets))
    if loaded.head:
        if not hasattr(kind, "modules_to_save"):
            raise AdapterError(
                f'adapter.peft_type = "{section.peft_type}" has no place for a task head; choose another'
            )
        options["modules_to_save"] = list(loaded.head)
    try:
        config = kind(**options)
    except (TypeError, ValueError, KeyError, AttributeError, NotImplementedError, ImportError) as error:
        raise refused(section, error) from error
    if config.is_prompt_learning:
        if not TASK_TYPES[task]:
            raise AdapterError(f'adapter.peft_type = "{section.peft_type}" is for text; choose another for {task}')
        if not config.num_virtual_tokens:
            raise AdapterError(
                f'adapter.peft_type = "{section.peft_type}" needs to know how many tokens to learn: set '
                f'adapter.peft_options = ["num_virtual_tokens=20"] or the like.'
            )
        config.task_type = TASK_TYPES[task]
    return config


def config_class(name: str) -> Any:
    """PEFT's config class of a method, whatever its case, `-` as `_`; raises AdapterError where there is none."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    classes = {_spelt(str(kind.value)): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    wanted = _spelt(name)
    if wanted in UNFIT:
        raise AdapterError(f'adapter.peft_type = "{name}" is not among the methods to choose from: {UNFIT[wanted]}')
    if wanted not in classes:
        can = sorted(classes.keys() - UNFIT.keys())
        raise AdapterError(
            f'adapter.peft_type = "{name}" is no method of the installed peft library'
            f"{did_you_mean(wanted, can) or '.'} It has {', '.join(can)}"
        )
    return classes[wanted]


def _spelt(name: str) -> str:
    return name.lower().replace("-", "_")


def refused(section: AdapterSection, error: Exception) -> AdapterError:
    """What the library says against a method's settings, as one sentence."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return AdapterError(
        f'adapter.peft_type = "{section.peft_type}" does not take these settings on this model ({said[:300]}); '
        f"change adapter.peft_options."
    )
