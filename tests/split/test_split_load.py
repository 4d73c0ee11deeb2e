"""Each part is loaded from its own tensors alone: what is read, what it takes in memory, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fedtune.models.load import load_model
from fedtune.recipe.split import SplitSection
from fedtune.split import load
from fedtune.split.cut import layer_number, whole_name
from fedtune.split.parts import ClientParts
from tests.split.split_models import (
    CPU,
    FAMILIES,
    LAYERS,
    SEED,
    batch,
    body_of,
    bytes_of,
    client_of,
    folder,
    make,
    on_disk,
    rewrite,
    section,
    split,
    whole,
)


class Spy:
    """What is read of a safetensors file: the names whose numbers were asked for."""

    def __init__(self, path: Path, **arguments: Any) -> None:
        self.opened.append(Path(path).name)
        self._file = REAL(path, **arguments)

    opened: list[str] = []  # noqa: RUF012 - the tests empty it
    read: set[str] = set()  # noqa: RUF012

    def __enter__(self) -> "Spy":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)

    def keys(self) -> list[str]:
        return list(self._file.keys())

    def get_slice(self, name: str) -> "Slice":
        return Slice(self._file.get_slice(name), name)


class Slice:
    def __init__(self, real: Any, name: str) -> None:
        self._real, self._name = real, name

    def __getitem__(self, index: Any) -> torch.Tensor:
        Spy.read.add(self._name)
        return self._real[index]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


REAL = load.safe_open


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], set[str]]:
    """The names of the tensors that a call reads."""
    monkeypatch.setattr(load, "safe_open", Spy)

    def record(call: Callable[[], Any]) -> set[str]:
        Spy.read, Spy.opened = set(), []
        call()
        return Spy.read

    return record


class TestWhatIsRead:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize(("head", "tail"), [(1, 1), (0, 2), (2, 0)])
    def test_is_the_parts_own(
        self, family: str, head: int, tail: int, reads: Callable[[Callable[[], Any]], set[str]]
    ) -> None:
        cuts = SplitSection(head_layers=head, tail_layers=tail)
        at_client = reads(lambda: client_of(section(family), cuts))
        at_server = reads(lambda: body_of(section(family), cuts))
        every = set(on_disk(folder(family)))
        middle = set(range(head, LAYERS - tail))
        body = {name for name in every if layer_number(name) in middle}
        assert body
        assert at_server == body
        assert not at_client & body
        # A pooler that the task's head does not have is of no use to anyone.
        assert {name for name in every - body - at_client if "pooler" not in name and "mask_token" not in name} == set()

    @pytest.mark.parametrize("family", ["bert", "gpt2"])
    def test_is_what_is_in_memory(self, family: str) -> None:
        parts, model = split(family), whole(family).model
        names = {whole_name(name, parts.body.cut): p for name, p in parts.client.model.named_parameters()}
        for name, parameter in names.items():
            assert torch.equal(parameter, model.get_parameter(name)), name
        own = {name for name, _ in model.named_parameters() if layer_number(name) not in (1, 2)}
        assert set(names) == own
        assert bytes_of(parts.client.model) + bytes_of(parts.body) == bytes_of(model)

    def test_of_shards_opens_those_that_are_needed(
        self, tmp_path: Path, reads: Callable[[Callable[[], Any]], set[str]]
    ) -> None:
        single, sharded = make(tmp_path / "single", "llama"), tmp_path / "sharded"
        model = transformers.AutoModelForCausalLM.from_pretrained(single)
        model.save_pretrained(sharded, max_shard_size="8KB")
        for file in single.glob("token*"):
            (sharded / file.name).write_bytes(file.read_bytes())
        own = section("llama", sharded)
        assert len(list(sharded.glob("*.safetensors"))) > LAYERS
        reads(lambda: body_of(own))
        places = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"]
        body = {file for name, file in places.items() if layer_number(name) in (1, 2)}
        assert set(Spy.opened) == body
        for file in body - {file for name, file in places.items() if layer_number(name) not in (1, 2)}:
            (sharded / file).unlink()  # a client need not hold them
        assert_same(client_of(own).model, client_of(section("llama", single)).model)

    def test_leaves_the_random_state_alone_and_every_number_frozen(self) -> None:
        state = torch.get_rng_state()
        client, body = client_of(section("bert")).model, body_of(section("bert"))
        assert torch.equal(torch.get_rng_state(), state)
        for part in (client, body):
            assert not any(p.requires_grad for p in part.parameters())
            assert not any(module.training for module in part.modules())
            assert {p.dtype for p in part.parameters()} == {torch.float32}


def assert_same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    mine, theirs = one.state_dict(), other.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


class TestTaskHead:
    @pytest.mark.parametrize("family", ["bert", "distilbert", "vit", "dinov2", "roberta"])
    def test_is_that_of_the_whole_for_the_same_seed(self, family: str) -> None:
        client, model = client_of(section(family)), whole(family)
        assert client.head == model.head
        for name, parameter in client.model.named_parameters():
            if name.startswith(client.head):
                assert torch.equal(parameter, model.model.get_parameter(name)), name
        other = client_of(section(family), seed=4).model
        assert any(not torch.equal(p, other.get_parameter(name)) for name, p in client.model.named_parameters())

    def test_is_so_with_a_pooler_that_the_checkpoint_lacks(self, tmp_path: Path) -> None:
        path = make(tmp_path, "bert")
        rewrite(path, lambda name: "pooler" not in name)
        model = section("bert", path)
        client, reference = client_of(model), load_model(model, device=CPU, seed=SEED)
        assert client.head == reference.head == ("bert.pooler", "classifier")
        pooler = "bert.pooler.dense.weight"
        assert torch.equal(client.model.get_parameter(pooler), reference.model.get_parameter(pooler))

    @pytest.mark.parametrize(("family", "tied"), [("gpt2", True), ("llama", True), ("qwen2", False)])
    def test_of_a_causal_lm_is_tied_as_in_the_whole(self, family: str, tied: bool) -> None:
        model = client_of(section(family)).model
        assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
        assert torch.equal(model.lm_head.weight, whole(family).model.lm_head.weight)


class TestFingerprint:
    def test_tells_the_cut_the_part_and_the_weights(self, tmp_path: Path) -> None:
        other = section("bert", make(tmp_path, "bert", hidden_act="relu"))
        prints = [
            client_of(section("bert")).fingerprint,
            body_of(section("bert")).fingerprint,
            client_of(section("bert"), SplitSection(head_layers=2, tail_layers=0)).fingerprint,
            body_of(section("bert"), SplitSection(head_layers=2, tail_layers=0)).fingerprint,
            client_of(other).fingerprint,
            body_of(other).fingerprint,
            whole("bert").fingerprint,
        ]
        assert len(set(prints)) == len(prints)
        assert {len(print_) for print_ in prints} == {32}

    def test_is_the_same_each_time_and_for_every_seed(self) -> None:
        assert client_of(section("bert"), seed=9).fingerprint == client_of(section("bert")).fingerprint
        assert body_of(section("bert")).fingerprint == body_of(section("bert")).fingerprint


def test_a_checkpoint_of_an_older_transformers_is_read() -> None:
    """ViT's layers were called otherwise: the files keep the old names."""
    names = set(on_disk(folder("vit")))
    assert any(name.startswith("encoder.layer.") for name in names)
    parts = ClientParts.of(split("vit").client.model, split("vit").body.cut, "image-classification")
    assert parts.head(batch("vit")).hidden.shape == (3, 5, 16)
