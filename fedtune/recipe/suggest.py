"""What was probably meant by a word that a recipe does not know."""

from collections.abc import Iterable

from fedtune.recipe.keys import dotted, leaf_keys, section_at, sections
from fedtune.recipe.lines import Path
from fedtune.suggest import nearest

ELSEWHERE = {
    "base_model": "model.name",
    "batch": "training.batch_size",
    "bf16": "training.precision",
    "classes": "model.labels",
    "dataset": "data.source",
    "epsilon": "privacy.unit",
    "fraction_evaluate": "federation.evaluate_clients",
    "fraction_fit": "federation.clients_per_round",
    "fraction_train": "federation.clients_per_round",
    "gradient_accumulation_steps": "training.accumulate",
    "image_column": "data.image",
    "init_lora_weights": "adapter.init",
    "label_column": "data.label",
    "learning_rate": "training.lr",
    "load_in_4bit": "model.quantization",
    "local_epochs": "training.epochs",
    "local_steps": "training.steps",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "lora_rank": "adapter.rank",
    "lr_scheduler_type": "training.schedule",
    "max_grad_norm": "training.max_grad_norm",
    "max_seq_length": "model.max_length",
    "max_steps": "training.steps",
    "min_available_clients": "federation.min_clients",
    "min_fit_clients": "federation.min_replies",
    "model_name_or_path": "model.name",
    "num_clients": "data.partition.clients",
    "num_rounds": "federation.rounds",
    "num_server_rounds": "federation.rounds",
    "num_train_epochs": "training.epochs",
    "optim": "training.optimizer",
    "output_dir": "run.folder",
    "per_device_eval_batch_size": "training.eval_batch_size",
    "per_device_train_batch_size": "training.batch_size",
    "r": "adapter.rank",
    "round_timeout": "federation.deadline_s",
    "scheduler": "training.schedule",
    "target_modules": "adapter.targets",
    "text_column": "data.text",
    "timeout": "federation.deadline_s",
    "warmup_ratio": "training.warmup_fraction",
}
"""Words of transformers, peft and Flower, and the keys that mean the same here."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where a known word is close, otherwise nothing."""
    word = nearest(given, known)
    return f"; did you mean '{word}'?" if word else ""


def key_meant(path: Path) -> str:
    """The key that was probably meant by the unknown key at `path`: bare where the section is right, else dotted.

    A spelling mistake within the section comes first, then the same word elsewhere, then other tools' words.
    """
    name, section = str(path[-1]), path[:-1]
    here = section_at(section)
    if here and (meant := nearest(name, here.model_fields)):
        return meant
    everywhere = {str(key[-1]): dotted(key) for key in leaf_keys()} | ELSEWHERE
    meant = everywhere.get(name) or everywhere.get(nearest(name, everywhere), "")
    return meant.removeprefix(f"{dotted(section)}.") if section else meant


def section_meant(name: str) -> str:
    """The section, dotted, that was probably meant by an unknown table, or nothing."""
    names = {str(part): dotted(path) for path in sections() for part in path[-1:]}
    return names.get(nearest(name, names), "")
