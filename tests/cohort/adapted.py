"""Tiny adapted models of every family in double precision, rows for them, and what padded passes make of those."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fedtune.adapters.attach import attach
from fedtune.adapters.layers import is_adaptable
from fedtune.cohort.base import Pass, Predicted
from fedtune.data.base import Rows
from fedtune.models.base import LoadedModel
from fedtune.models.dropout import set_chances
from fedtune.models.head import is_inside
from fedtune.recipe import AdapterSection, Recipe, TrainingSection
from fedtune.recipe.federation import FederationSection
from fedtune.split.cut import layer_number
from fedtune.training.forward import IGNORED, targets_of
from fedtune.training.resident import Resident
from tests.split.split_models import CPU, FAMILIES, section, whole
from tests.training.parts import ListRows

Parts = list[tuple[Rows, list[int]]]


def adapted(family: str, *, first: int = 0, kind: str = "square", only: Sequence[str] = (), **more: Any) -> Resident:
    """A model of the family with a trained adapter far from zero on the linear layers from layer `first` on.

    `only` are the ends of their names. Nothing is dropped.
    """
    loaded: LoadedModel = whole(family)
    loaded = replace(loaded, model=set_dropout(copy.deepcopy(loaded.model), 0.0))
    targets = tuple(
        name
        for name, module in loaded.model.named_modules()
        if is_adaptable(module)
        and not is_inside(name, loaded.head)
        and (number := layer_number(f"{name}.")) is not None
        and number >= first
        and (not only or name.endswith(tuple(only)))
    )
    start = {"square": "weights", "lora": "kaiming", "ravan": "random", "prompt": "random"}[kind]
    fields = {
        "kind": kind,
        "rank": 3,
        "targets": targets if kind != "prompt" else "all-linear",
        "init": start,
        "heads": 2,
        "prompt_tokens": 3,
    }
    adapter = AdapterSection.model_validate(fields)
    attached = attach(loaded, adapter, task=FAMILIES[family][1])
    recipe = Recipe(
        model=section(family),
        training=TrainingSection(device="cpu"),
        federation=FederationSection(rounds=more.pop("rounds", 3)),
    )
    loaded.model.double()
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in attached.parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) / 5)
    return Resident.of(loaded, attached, CPU, recipe)


def set_dropout(model: Any, chance: float) -> Any:
    """The same model, in which everything that can drop drops by this chance."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = chance
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = chance
    set_chances(model.config, chance)
    return model


def rows_of(family: str, lengths: Sequence[int], *, seed: int = 0) -> ListRows:
    """Texts of these many tokens, or as many images; answers start anywhere, and one text has none."""
    draw = torch.Generator().manual_seed(seed)
    task = FAMILIES[family][1]
    examples: list[dict[str, Any]] = []
    for number, length in enumerate(lengths):
        if task == "image-classification":
            pixels = torch.randn(3, 16, 16, generator=draw, dtype=torch.float64)
            examples.append({"pixel_values": pixels, "labels": number % 3})
            continue
        ids = torch.randint(5, 20, (length,), generator=draw).tolist()
        begin = int(torch.randint(1, length + 1, (1,), generator=draw))
        labels = number % 3 if task != "causal-lm" else [IGNORED] * begin + ids[begin:]
        examples.append({"input_ids": ids, "labels": labels})
    return ListRows(examples)


def padded(resident: Resident, parts: Parts) -> list[Predicted]:
    """What the model's own forward pass makes of each part, padded: the oracle."""
    done = []
    for rows, indices in parts:
        batch = rows.batch(indices)
        targets = targets_of(batch)
        output = resident.attached.model(**{k: v for k, v in batch.items() if k != "labels"}, **resident.extra)
        logits = output.logits
        if targets.ndim == 1:
            done.append(Predicted(logits, targets, torch.arange(len(targets))))
        else:
            known = targets != IGNORED
            done.append(Predicted(logits[:, :-1][known], targets[known], known.nonzero()[:, 0]))
    return done


def gradients(resident: Resident, predicted: Sequence[Predicted]) -> dict[str, torch.Tensor]:
    """The gradient of the summed loss by every trained tensor."""
    parameters = resident.attached.parameters()
    loss = sum(cross_entropy(one.logits, one.targets, reduction="sum") for one in predicted)
    assert isinstance(loss, torch.Tensor)
    found = torch.autograd.grad(loss, list(parameters.values()))
    return dict(zip(parameters, found, strict=True))


def assert_agree(resident: Resident, a_pass: Pass, parts: Parts, *, all_matter: bool = True) -> None:
    """The pass predicts what padded passes predict, with the same gradients, within 1e-9 of the largest number.

    `all_matter` says that every trained tensor has a gradient: the queries of rows of one token have none.
    """
    predicted, expected = a_pass.logits(parts), padded(resident, parts)
    close(predicted.logits, torch.cat([one.logits for one in expected]))
    assert predicted.targets.tolist() == torch.cat([one.targets for one in expected]).tolist()
    starts = torch.tensor([0, *(len(indices) for _, indices in parts)]).cumsum(0)
    owners = torch.cat([one.owners + start for one, start in zip(expected, starts, strict=False)])
    assert predicted.owners.tolist() == owners.tolist()
    own, other = gradients(resident, [predicted]), gradients(resident, expected)
    for name, gradient in other.items():
        assert gradient.abs().max() > 0 or not all_matter, name
        close(own[name], gradient)


def close(one: torch.Tensor, other: torch.Tensor, within: float = 1e-9) -> None:
    """Equal within a share of the largest number, or of a thousandth."""
    torch.testing.assert_close(one, other, atol=within * max(1e-3, float(other.detach().abs().max())), rtol=0.0)
