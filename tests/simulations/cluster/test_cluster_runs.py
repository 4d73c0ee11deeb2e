"""A run by actors ends with the bytes of a run in one process; what cannot be done on a cluster is a sentence."""

import sys
from pathlib import Path
from typing import Any

import pytest

from fedtune.errors import RunError
from fedtune.recipe import Recipe
from fedtune.runs.folder import RunFolder
from simulations.cluster.connect import connected
from simulations.cluster.hire import actors_for, resource_of
from simulations.cluster.prints import print_of
from simulations.population import Population
from simulations.simulate import simulate
from tests.integration.processes import free_port
from tests.simulations.cluster.fake_ray import FakeRay
from tests.split.split_models import folder as model_of
from tests.worlds import tiny_recipe, write_rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 120)


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.run.draw_plots", lambda _: None)


def recipe_for(model: Path, rows: Path, folder: Path, name: str = "run", **sections: dict[str, Any]) -> Recipe:
    sections = {"data": {"partition": {"clients": 12}}, "federation": {"rounds": 2}} | sections
    made = tiny_recipe(model, rows, folder, run={"name": name}, **sections)
    return made.model_copy(update={"model": made.model.model_copy(update={"dropout": 0.0})})


def digests(recipe: Recipe, **options: Any) -> list[str]:
    return [record.state_digest for record in RunFolder.open(simulate(recipe, **options)).rounds()]


SCAFFOLD = {"training": {"scaffold": True, "optimizer": "sgd", "lr": 0.1}}
BUFFERED = {
    "simulation": {"rows_per_s": 2.0, "speed_spread": 0.8},
    "federation": {"rounds": 3, "buffer": 3, "concurrency": 6, "evaluate_every": 0},
}


@pytest.mark.parametrize("sections", [{}, SCAFFOLD, BUFFERED], ids=["plain", "scaffold", "asynchronous"])
def test_actors_end_with_the_bytes_of_one_process(
    sections: dict[str, Any], tiny_bert_folder: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.groups.cores", lambda: 4)
    one = digests(recipe_for(tiny_bert_folder, rows, tmp_path, "one", **sections))
    ray = FakeRay(resources={"CPU": 3.0})
    monkeypatch.setattr("simulations.simulate.connected", ray.connected)
    assert digests(recipe_for(tiny_bert_folder, rows, tmp_path, "ray", **sections), ray="local", workers=None) == one
    assert ray.needs == [{"num_cpus": 1}] * 3
    assert ray.alive == 0
    assert all(isinstance(given, str | bytes) for given in ray.given + ray.came)


def test_a_split_models_trained_body_goes_with_the_tasks(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def split(name: str) -> Recipe:
        federation, adapter = {"rounds": 1}, {"kind": "lora", "init": "kaiming", "rank": 2, "targets": "attention"}
        body = {"head_layers": 1, "body": "lora"}
        return recipe_for(model_of("bert"), rows, tmp_path, name, federation=federation, adapter=adapter, split=body)

    one = digests(split("one"))
    ray = FakeRay()
    monkeypatch.setattr("simulations.simulate.connected", ray.connected)
    assert digests(split("ray"), ray="local", workers=2) == one
    assert all(isinstance(given, str | bytes) for given in ray.given + ray.came)


def test_a_recipe_whose_clients_keep_tensors_needs_one_disk(
    tiny_bert_folder: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = FakeRay(nodes=2)
    monkeypatch.setattr("simulations.simulate.connected", ray.connected)
    for sections in (SCAFFOLD, {"compression": {"upload": ["top-k"]}}):
        with pytest.raises(
            RunError, match=r"clients of this recipe keep tensors on the disk of one machine .* --ray local"
        ):
            simulate(recipe_for(tiny_bert_folder, rows, tmp_path, **sections), ray="auto")
    assert ray.needs == []


def test_how_many_actors(tiny_bert_folder: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.groups.cores", lambda: 4)
    recipe = recipe_for(tiny_bert_folder, rows, tmp_path)
    anywhere = recipe.model_copy(update={"training": recipe.training.model_copy(update={"device": "auto"})})
    big = FakeRay(resources={"CPU": 64.0, "GPU": 2.0})
    assert (resource_of(big, recipe), resource_of(big, anywhere)) == ("CPU", "GPU")
    assert (actors_for(big, recipe, None, 100), actors_for(big, recipe, 3, 100)) == (4, 3)
    assert (actors_for(big, recipe, None, 3), actors_for(big, anywhere, None, 100)) == (3, 2)
    singly = recipe_for(tiny_bert_folder, rows, tmp_path, federation={"buffer": 2, "concurrency": 20})
    assert (actors_for(big, singly, None, 100), actors_for(big, singly, None, 12)) == (20, 12)
    with pytest.raises(RunError, match=r"^the Ray cluster has 2 GPUs, and an actor takes one: ask for fewer"):
        actors_for(big, anywhere, 3, 100)
    with pytest.raises(RunError, match=r"^the Ray cluster has 0 CPUs"):
        actors_for(FakeRay(resources={"object_store_memory": 1.0}), recipe, None, 100)


def test_other_rows_have_another_print(tiny_bert_folder: Path, rows: Path, tmp_path: Path) -> None:
    def print_with(source: Path, **sections: dict[str, Any]) -> str:
        return print_of(Population.of(recipe_for(tiny_bert_folder, source, tmp_path, **sections)))

    lines = rows.read_text().splitlines()
    swapped = tmp_path / "swapped.jsonl"
    swapped.write_text("\n".join([*lines[::-1], ""]))
    fewer = print_with(rows, data={"partition": {"clients": 11}})
    assert len({print_with(rows), print_with(rows), print_with(swapped), fewer}) == 3


@pytest.mark.parametrize("address", ["", "ray://ada:10001", "ada", "http://ada", "ada:port"])
def test_an_address_that_is_none_is_a_sentence(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", type("Ray", (), {"is_initialized": staticmethod(lambda: False)}))
    with pytest.raises(RunError, match=r"^--ray takes auto .*, local .* or HOST:PORT, not"), connected(address):
        pass


def test_a_port_where_nobody_listens_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", type("Ray", (), {"is_initialized": staticmethod(lambda: False)}))
    address = f"127.0.0.1:{free_port()}"
    with (
        pytest.raises(RunError, match=f"^no Ray cluster answers at '{address}'; start or join one"),
        connected(address),
    ):
        pass


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    said = r"^--ray needs Ray, which is not installed: pip install 'fedtune\[ray\]'$"
    with pytest.raises(RunError, match=said), connected("local"):
        pass
