"""The labels' part of the audit: a client's gradients at the recipe's cut, and the attacks on them."""

import torch

from fedtune.data.rows import EncodedRows
from fedtune.privacy.noise import NoiseSource, SecureNoise
from fedtune.recipe import Recipe
from fedtune.seeds import derive_seed
from fedtune.split.activations import roundtrip
from fedtune.split.attach import SplitAttached, attach_split
from fedtune.split.base import Smashed
from fedtune.split.cut import Cut
from fedtune.split.load import load_body, load_client_part
from fedtune.split.noise import blurred
from fedtune.split.parts import ClientParts
from simulations.audit.split.labels import best_naming, cluster, gradients, match, naming_by_chance
from simulations.audit.split.result import LabelLeak

CPU = torch.device("cpu")


def audit_labels(recipe: Recipe, cut: Cut, rows: EncodedRows, *, noise: NoiseSource | None = None) -> LabelLeak | None:
    """Attack the labels of `rows`; None for a causal LM, and where no gradient leaves the client."""
    if recipe.model.task == "causal-lm":
        return None
    loaded = load_client_part(recipe.model, recipe.split, device=CPU, seed=derive_seed(recipe.run.seed, "head"))
    attached = attach_split(loaded, recipe, cut)
    parts = ClientParts.of(attached.model, cut, recipe.model.task, attached.prompts)
    wants = parts.wants()
    if wants.gradient is None and not recipe.split.trains_body:
        return None
    batch = rows.batch(range(len(rows)))
    with torch.no_grad():
        smashed = parts.head(batch)
        body = load_body(recipe.model, recipe.split, device=CPU)
        split = recipe.split
        sent = roundtrip(blurred(smashed.hidden, split, noise or SecureNoise()), split.activations, split.topk)
        outputs = Smashed(body(sent, smashed.mask)[:, wants.output], smashed.mask)
        predicted = parts.tail(outputs, {}).logits.argmax(dim=1)
    labels, classes = batch["labels"], len(rows.labels)
    start = attached.read()
    first = gradients(parts, outputs, labels, recipe.split)
    groups = cluster(first, classes)
    matched = match(parts, outputs, first, classes)
    _train(recipe, attached, parts, outputs, labels)
    later = gradients(parts, outputs, labels, recipe.split)
    attached.load(start)  # the coordinator knows no tail but this
    return LabelLeak(
        head_layers=cut.head,
        tail_layers=cut.tail,
        matched=_share(matched, labels),
        matched_later=_share(match(parts, outputs, later, classes), labels),
        clustered=best_naming(groups, labels, classes),
        clustered_later=best_naming(cluster(later, classes), labels, classes),
        clustered_by_chance=naming_by_chance(groups, labels, classes),
        most_frequent=float(labels.bincount().max() / len(labels)),
        predicted=_share(predicted, labels),
    )


def _train(recipe: Recipe, attached: SplitAttached, parts: ClientParts, outputs: Smashed, labels: torch.Tensor) -> None:
    """One epoch of the tail on these rows; the body's outputs stay what they were."""
    optimizer = torch.optim.AdamW(attached.parameters().values(), lr=recipe.training.lr)
    for chosen in torch.split(torch.arange(len(labels)), recipe.training.batch_size):
        mask = None if outputs.mask is None else outputs.mask[chosen]
        optimizer.zero_grad()
        parts.tail(Smashed(outputs.hidden[chosen], mask), {"labels": labels[chosen]}).loss.backward()
        optimizer.step()
    optimizer.zero_grad()


def _share(found: torch.Tensor, labels: torch.Tensor) -> float:
    return float((found == labels).float().mean())
