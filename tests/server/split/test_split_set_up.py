"""What a coordinator serves of a split recipe, and how it knows which run is open."""

import torch

from fedtune.split.asks import Coding
from fedtune.split.local import body_model
from server.listener import KnowsRun, Listener
from server.split.set_up import split_service
from tests.split.split_rounds import recipe


def test_the_service_is_the_recipes_body_on_its_terms() -> None:
    made = recipe("bert", split={"activations": "topk", "topk": 0.2, "in_flight": 5}, training={"accumulate": 4})
    server = split_service(made, run=lambda: "r").server
    assert server.coding == Coding("topk", 0.2)
    assert server.limits.in_flight == 5
    assert server.width == body_model(made).width
    hidden = torch.randn(1, 3, server.width)
    assert torch.equal(server._worker._engine.body(hidden), body_model(made)(hidden))
    assert server._worker._engine.body is body_model(made)  # loaded once


def test_who_knows_the_run_passes_everything_on() -> None:
    heard = []

    class Ear(Listener):
        def __getattribute__(self, name: str) -> object:
            return lambda *args: heard.append((name, args))

    knows = KnowsRun(Ear())
    assert knows.run() == ""
    calls = {
        "connected": (1, 2),
        "began": ("run-id", 0, 3),
        "asked": (1, 2, "train"),
        "replied": (None, "train"),
        "finished": (None,),
        "noted": ("a sentence",),
    }
    for name, args in calls.items():
        getattr(knows, name)(*args)
    assert heard == list(calls.items())
    assert set(calls) == {name for name in vars(Listener) if not name.startswith("_")}
    assert knows.run() == "run-id"
