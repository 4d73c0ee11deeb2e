"""What each task asks of a model: the class that carries its head, its labels, and the checks before loading."""

from dataclasses import dataclass
from typing import Any

from fedtune.errors import ModelError
from fedtune.recipe import ModelSection
from fedtune.recipe.model import Task


@dataclass(frozen=True, slots=True)
class TaskKind:
    """One row of the table of tasks."""

    auto_class: str
    """The `transformers` class that loads a model with this task's head."""
    classifies: bool
    reads: str
    """`text` or `images`."""


TASKS: dict[Task, TaskKind] = {
    "sequence-classification": TaskKind("AutoModelForSequenceClassification", classifies=True, reads="text"),
    "causal-lm": TaskKind("AutoModelForCausalLM", classifies=False, reads="text"),
    "image-classification": TaskKind("AutoModelForImageClassification", classifies=True, reads="images"),
}


def auto_class(task: Task) -> Any:
    """The `transformers` class of a task."""
    import transformers

    return getattr(transformers, TASKS[task].auto_class)


def check_task(section: ModelSection, config: Any) -> None:
    """Raise ModelError where this architecture cannot do the section's task, or not at its length."""
    fitting = [task for task in TASKS if _supports(task, config)]
    if section.task not in fitting:
        can = f"it can do {' and '.join(fitting)}" if fitting else "fedtune knows no task for it"
        raise ModelError(f"{section.name} is a {config.model_type} model, which cannot do {section.task}: {can}.")
    longest = getattr(config, "max_position_embeddings", None)
    if TASKS[section.task].reads == "text" and isinstance(longest, int) and section.max_length > longest > 0:
        raise ModelError(
            f"{section.name} reads at most {longest} tokens, so model.max_length = {section.max_length} must become "
            f"{longest} or less."
        )


def label_fields(section: ModelSection, config: Any) -> dict[str, Any]:
    """The config fields that name the classes, in the order of `section.labels`; empty for `causal-lm`.

    A checkpoint that was trained as a classifier brings its own where the section has none. Raises ModelError where
    there are no labels, a single one or the same one twice.
    """
    if not TASKS[section.task].classifies:
        return {}
    labels = section.labels or _own_labels(config)
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise ModelError(
            f"model.labels must name two or more different classes for {section.task}, and it is {list(labels)}: "
            f'write them in order, such as labels = ["negative", "positive"].'
        )
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": "single_label_classification",
    }


def _supports(task: Task, config: Any) -> bool:
    if type(config) not in auto_class(task)._model_mapping:
        return False
    # An encoder's language-model head sees the answer: transformers loads it and merely warns.
    return task != "causal-lm" or getattr(config, "is_decoder", True)


def _own_labels(config: Any) -> tuple[str, ...]:
    labels = tuple(config.id2label[index] for index in sorted(config.id2label))
    return () if any(label.startswith("LABEL_") for label in labels) else labels
