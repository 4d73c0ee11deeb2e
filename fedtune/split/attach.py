"""The adapter of a split model: another adapter on the parts that the client trains, and soft prompts beside it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedtune.adapters.attach import KINDS
from fedtune.adapters.base import Attached, Products
from fedtune.adapters.check import check_same_tensors
from fedtune.adapters.export import write_adapter
from fedtune.adapters.full import Full
from fedtune.adapters.low_rank import LowRank
from fedtune.adapters.replaced import Replaced, about_file, prompt_files, put_in, refuse_not_finite, write_replaced
from fedtune.adapters.shift import Shift
from fedtune.adapters.slots import Axes
from fedtune.adapters.targets import resolve_targets
from fedtune.errors import AdapterError
from fedtune.models.base import LoadedModel
from fedtune.models.head import is_inside
from fedtune.models.load import load_model
from fedtune.recipe import Recipe
from fedtune.seeds import derive_seed
from fedtune.split.cut import Cut, layer_number, name_of_body, whole_name
from fedtune.split.family import family_of
from fedtune.split.prompt import Prompts
from fedtune.state import Shapes, State, copy_state, shapes_of

PREFIX = "prompt."
"""In front of a soft prompt's name: its canonical name."""
PLACES = ("head_layers", "tail_layers", "prompt_tokens", "prompt_at", "deep_prompts")
"""The keys of `[split]` that say where prompts stand."""


class SplitAttached(Attached):
    """An adapter on a client part, and the soft prompts, trained and sent as one state.

    `model` is the client part; only `ClientParts` put the prompts among its tokens. What `save` writes is named as in
    the whole model.
    """

    def __init__(self, inner: Attached, prompts: Prompts | None, cut: Cut, loaded: LoadedModel, recipe: Recipe) -> None:
        self.model = inner.model
        self.shared_origin, self.slots, self.scale = inner.shared_origin, inner.slots, inner.scale
        self.prompts = prompts
        """The soft prompts; None where there are none."""
        self._inner, self._cut, self._loaded, self._recipe = inner, cut, loaded, recipe
        self._prompts = {} if prompts is None else {f"{PREFIX}{n}": p for n, p in prompts.named_parameters()}

    def parameters(self) -> dict[str, nn.Parameter]:
        """The inner adapter's tensors, and `prompt.…`, sorted."""
        return dict(sorted((self._inner.parameters() | self._prompts).items()))

    def shapes(self) -> Shapes:
        """The shapes of the state."""
        return dict(sorted((self._inner.shapes() | shapes_of(self._prompts)).items()))

    def read(self) -> State:
        """The state, a copy of its own: fp32, CPU."""
        return dict(sorted((self._inner.read() | copy_state(self._prompts)).items()))

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Copy a state into place; raises AdapterError where names or shapes differ."""
        check_same_tensors(shapes_of(state), self.shapes(), what="the adapter state")
        self._inner.load(_without_prompts(state))
        with torch.no_grad():
            for name, parameter in self._prompts.items():
                parameter.copy_(state[name])

    def shared(self) -> State:
        """The inner adapter's frozen factors."""
        return self._inner.shared()

    def load_shared(self, factors: Mapping[str, torch.Tensor]) -> None:
        """Put broadcast factors in place; raises AdapterError where names or shapes differ."""
        self._inner.load_shared(factors)

    def sketch(self) -> dict[str, float]:
        """The inner adapter's."""
        return self._inner.sketch()

    def initialise(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """As the inner adapter does; raises AdapterError where it reads no gradients."""
        self._inner.initialise(gradients)

    def axes(self) -> Axes:
        """The inner adapter's; a prompt has no slots."""
        return {**self._inner.axes(), **dict.fromkeys(self._prompts, ())}

    def products(self, state: State) -> Products:
        """What the inner adapter's part of a state adds to its targets; raises AdapterError where it adds none."""
        return self._inner.products(_without_prompts(state))

    def shift_to(self, shift: Shift) -> None:
        """As the inner adapter does: no scheme for split models makes a shift."""
        self._inner.shift_to(shift)

    def targets(self) -> tuple[str, ...]:
        """Dotted names of the adapted modules in the client part, sorted."""
        return self._inner.targets()

    def target_shapes(self) -> Shapes:
        """The (out, in) shape of each weight that takes up a product, by the names of `targets()`."""
        return self._inner.target_shapes()

    def save(self, folder: Path, base: str) -> None:
        """Write a PEFT folder, or the trained weights of `kind = "full"`, for the whole base model, called `base`.

        Soft prompts, for which neither has a place, lie beside them (`fedtune.split.exported` puts them back). Raises
        AdapterError where a number is NaN or infinite, or `folder` holds other files; RunError where it cannot be
        written.
        """
        self.write(folder, base, weights={}, products={})

    def write(self, folder: Path, base: str, *, weights: State, products: Products) -> None:
        """As `save`, with what is trained of the body beside it, by its names in the whole model."""
        prompt = copy_state({name.removeprefix(PREFIX): p for name, p in self._prompts.items()})
        about = self._about() if prompt else {}
        if isinstance(self._inner, Full):
            own = self._inner.replaced(base)
            tensors = self._renamed(own.tensors) | weights
            write_replaced(replace(own, tensors=tensors, prompt=prompt, about=about), folder)
        elif isinstance(self._inner, LowRank):
            saved = self._inner.saved(base)
            products = {whole_name(name, self._cut): pair for name, pair in saved.products.items()} | products
            refuse_not_finite(prompt, folder)
            more = about_file(base, self._recipe.model.task, about) | prompt_files(prompt) if prompt else {}
            write_adapter(replace(saved, products=products), folder, more)

    def merged(self) -> nn.Module:
        """The whole base model, loaded for it, with what was trained in its place; frozen, in eval mode.

        Raises AdapterError where there are soft prompts, ModelError where the model cannot be loaded.
        """
        return self.merged_with({})

    def merged_with(self, body: State) -> nn.Module:
        """As `merged`, with weights of the body in it, by their names in the whole model."""
        if self._prompts:
            raise AdapterError(
                "soft prompts stand among a model's tokens, and no weight can take them up; "
                "export the adapter alone, with the prompts beside it"
            )
        seed = derive_seed(self._recipe.run.seed, "head")
        whole = load_model(self._recipe.model, device=torch.device("cpu"), seed=seed)
        own = copy_state(dict(self._inner.merged().named_parameters()))
        put_in(Replaced(whole.source, self._recipe.model.task, self._renamed(own) | body), whole.model)
        return whole.model

    def name_of_body(self, name: str) -> str:
        """What a tensor or module of the body is called in the whole model."""
        return f"{self._loaded.model.base_model_prefix}.{name_of_body(name, self._cut)}"

    def _about(self) -> dict[str, Any]:
        model = self._recipe.model.model_dump(mode="json", exclude_defaults=True)
        return {"model": model, "split": {key: getattr(self._recipe.split, key) for key in PLACES}}

    def _renamed(self, tensors: State) -> State:
        return {whole_name(name, self._cut): tensor for name, tensor in tensors.items()}


def attach_split(loaded: LoadedModel, recipe: Recipe, cut: Cut) -> SplitAttached:
    """Put the recipe's adapter on a client part's layers that are trained, and draw its prompts.

    Raises AdapterError where the section does not fit the model, or fits no layer that is trained.
    """
    trained = _trained(loaded, recipe, cut)
    section = recipe.adapter
    if section.kind == "full":
        inner: Attached = Full(loaded, section, recipe.model.task, trained)
    else:
        names = tuple(name for name in resolve_targets(loaded, section.targets) if trained(f"{name}."))
        if not names:
            raise AdapterError(
                f'adapter.targets = "{section.targets}" fits no layer that the client trains; set split.tail_layers '
                "higher, or split.train_head = true"
            )
        inner = KINDS[section.kind](loaded, section.model_copy(update={"targets": names}), recipe.model.task)
    width = int(loaded.model.config.hidden_size)  # type: ignore[union-attr, arg-type]
    prompts = Prompts.of(recipe.split, width, cut.client, derive_seed(recipe.run.seed, "prompt"))
    device = next(loaded.model.parameters()).device
    return SplitAttached(inner, None if prompts is None else prompts.to(device), cut, loaded, recipe)


def _trained(loaded: LoadedModel, recipe: Recipe, cut: Cut) -> Callable[[str], bool]:
    """Which names of the client part are trained: of layers the tail's (and the head's where the recipe says so), and
    what stands behind the layers. The embeddings never, nor what projects on them."""
    family = family_of(loaded.model.config)
    still = [f"{loaded.model.base_model_prefix}.{part}" for part in (family.embeddings, family.positions) if part]
    output = getattr(loaded.model, "get_output_embeddings", lambda: None)()
    still += [name for name, module in loaded.model.named_modules() if output is not None and module is output]
    first = 0 if recipe.split.train_head else cut.head

    def trained(name: str) -> bool:
        number = layer_number(name)
        return number >= first if number is not None else not is_inside(name.removesuffix("."), tuple(still))

    return trained


def _without_prompts(state: Mapping[str, torch.Tensor]) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith(PREFIX)}
