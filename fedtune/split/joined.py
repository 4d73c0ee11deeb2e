"""The adapter of a whole split run, as the coordinator sees it: the clients' part and what is trained of the body."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from fedtune.adapters.base import Attached, Products
from fedtune.adapters.check import check_same_tensors
from fedtune.adapters.full import Full
from fedtune.adapters.low_rank import LowRank
from fedtune.adapters.shift import Shift
from fedtune.adapters.slots import Axes
from fedtune.errors import RunError
from fedtune.split.attach import SplitAttached
from fedtune.split.body import BodyModel
from fedtune.split.local import body_model
from fedtune.split.sides import as_body, body_side, client_side
from fedtune.state import Shapes, State, copy_state, shapes_of
from fedtune.training.resident import Resident


class Joined(Attached):
    """One state of two sides; `model` is the client part, with which a loaded body works in this process."""

    def __init__(self, own: SplitAttached, body: BodyModel, attached: Attached) -> None:
        self.model = own.model
        self.shared_origin, self.slots, self.scale = own.shared_origin, own.slots, own.scale
        self._own, self._body, self._attached = own, body, attached

    def parameters(self) -> dict[str, nn.Parameter]:
        """The clients' tensors, and the body's as `body.…`, sorted."""
        return dict(sorted((self._own.parameters() | as_body(self._attached.parameters())).items()))

    def shapes(self) -> Shapes:
        """The shapes of the state."""
        return dict(sorted((self._own.shapes() | as_body(self._attached.shapes())).items()))

    def read(self) -> State:
        """The state, a copy of its own: fp32, CPU."""
        return dict(sorted((self._own.read() | as_body(self._attached.read())).items()))

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Copy a state into place, the body's share into this process's body; raises AdapterError where it differs."""
        check_same_tensors(shapes_of(state), self.shapes(), what="the adapter state")
        self._own.load(client_side(state))
        self._body.load(body_side(state))

    def shared(self) -> State:
        """What clients must hold alike: the factors of their own part."""
        return self._own.shared()

    def load_shared(self, factors: Mapping[str, torch.Tensor]) -> None:
        """Put broadcast factors in place; raises AdapterError where names or shapes differ."""
        self._own.load_shared(factors)

    def sketch(self) -> dict[str, float]:
        """That of the clients' part."""
        return self._own.sketch()

    def initialise(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """As the clients' part does."""
        self._own.initialise(gradients)

    def axes(self) -> Axes:
        """Those of the clients' part; the body's tensors are trained whole, whatever rank a client has."""
        return {**self._own.axes(), **dict.fromkeys(as_body(self._attached.shapes()), ())}

    def products(self, state: State) -> Products:
        """What a whole state adds, by the names of `targets()`; raises AdapterError where it adds none."""
        return self._own.products(client_side(state)) | as_body(self._attached.products(body_side(state)))

    def shift_to(self, shift: Shift) -> None:
        """As the clients' part does: no scheme for split models makes a shift."""
        self._own.shift_to(shift)

    def targets(self) -> tuple[str, ...]:
        """The adapted modules of the client part, and those of the body as `body.…`."""
        return (*self._own.targets(), *as_body(dict.fromkeys(self._attached.targets())))

    def target_shapes(self) -> Shapes:
        """The (out, in) shape of each weight that takes up a product, by the names of `targets()`."""
        return {**self._own.target_shapes(), **as_body(self._attached.target_shapes())}

    def save(self, folder: Path, base: str) -> None:
        """As of the clients' part, with the body's layers in it; raises as that does."""
        weights, products = {}, {}
        if isinstance(self._attached, Full):
            weights = self._renamed(self._attached.replaced(base).tensors)
        elif isinstance(self._attached, LowRank):
            products = {self._name(name): pair for name, pair in self._attached.saved(base).products.items()}
        self._own.write(folder, base, weights=weights, products=products)

    def merged(self) -> nn.Module:
        """The whole base model, with what was trained in its place; raises as that of the clients' part does."""
        return self._own.merged_with(self._renamed(copy_state(dict(self._attached.merged().named_parameters()))))

    def _renamed(self, tensors: State) -> State:
        return {self._name(name): tensor for name, tensor in tensors.items()}

    def _name(self, name: str) -> str:
        return self._own.name_of_body(name)


def joined(home: Resident) -> Resident:
    """The coordinator's resident: of a run that trains the body with both sides in its state, else as it is.

    Raises ModelError where the body cannot be loaded, RunError where it is not trained here.
    """
    if not home.recipe.split.trains_body:
        return home
    body = body_model(home.recipe)
    if body.attached is None or not isinstance(home.attached, SplitAttached):
        raise RunError("the body that this recipe trains is not attached; load it by the recipe")
    initial = dict(sorted((home.initial | as_body(body.initial)).items()))
    return replace(home, attached=Joined(home.attached, body, body.attached), initial=initial)
