"""Puts the recipe's adapter on the body: what the coordinator trains of it."""

from fedtune.adapters.attach import attach
from fedtune.models.base import LoadedModel
from fedtune.recipe import Recipe
from fedtune.split.body import BodyModel


def attach_body(body: BodyModel, recipe: Recipe) -> None:
    """Attach what `split.body` trains, by the keys of `[adapter]`; nothing where the body is frozen.

    Its tensors stay frozen in the body itself: clients train copies of them. Raises AdapterError where the section
    does not fit the body's layers.
    """
    if not recipe.split.trains_body:
        return
    loaded = LoadedModel(body.model, None, body.fingerprint, (), body.source)
    section = recipe.adapter.model_copy(update={"kind": recipe.split.body, "head": False})
    body.train_by(attach(loaded, section, task=recipe.model.task))
    body.requires_grad_(False)
    body.eval()
