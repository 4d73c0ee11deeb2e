"""Each part is loaded from its own tensors alone: what is read, what it takes in memory, and what is refused."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers

from fedtune.errors import ModelError
from fedtune.models.load import load_model
from fedtune.recipe import ModelSection
from fedtune.recipe.split import SplitSection
from fedtune.split import load
from fedtune.split.cut import layer_number, whole_name
from fedtune.split.load import load_body, load_client_part
from fedtune.split.parts import ClientParts
from tests.split.split_models import CPU, FAMILIES, LAYERS, SEED, batch, folder, make, section, split, whole

CUTS = SplitSection(head_layers=1, tail_layers=1)


def client_of(model: ModelSection, cuts: SplitSection = CUTS, *, seed: int = SEED) -> Any:
    return load_client_part(model, cuts, device=CPU, seed=seed)


def body_of(model: ModelSection, cuts: SplitSection = CUTS) -> Any:
    return load_body(model, cuts, device=CPU)


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


def on_disk(path: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        tensors |= safetensors.torch.load_file(file)
    return tensors


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


def bytes_of(model: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


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


def rewrite(path: Path, keep: Callable[[str], bool]) -> None:
    """Leave out tensors of a folder's file."""
    tensors = {name: tensor for name, tensor in on_disk(path).items() if keep(name)}
    safetensors.torch.save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


class TestRefusals:
    def test_of_a_cut_beyond_the_layers(self) -> None:
        for part in (client_of, body_of):
            with pytest.raises(ModelError, match=r"has 4 layers.*at most 3"):
                part(section("bert"), SplitSection(head_layers=3, tail_layers=1))

    def test_of_another_architecture(self, tmp_path: Path) -> None:
        config = transformers.OPTConfig(
            vocab_size=20, hidden_size=8, num_hidden_layers=3, ffn_dim=8, num_attention_heads=1
        )
        transformers.OPTForCausalLM(config).save_pretrained(tmp_path)
        for part in (client_of, body_of):
            with pytest.raises(ModelError, match="opt model cannot be split"):
                part(section("llama", tmp_path))

    def test_of_another_task(self) -> None:
        model = section("bert", folder("llama"))
        with pytest.raises(ModelError, match="llama model can be split for causal-lm alone"):
            client_of(model)

    def test_of_a_quantised_base(self) -> None:
        with pytest.raises(ModelError, match=r'model\.quantization = "none"'):
            body_of(section("llama").model_copy(update={"quantization": "nf4"}))

    def test_of_a_prompt_that_leaves_too_few_positions_to_the_text(self) -> None:
        model = section("gpt2").model_copy(update={"max_length": 70})
        client_of(model, CUTS.model_copy(update={"prompt_tokens": 10}))
        for part in (client_of, body_of):
            with pytest.raises(ModelError, match="max_length = 70 must become 69 or less"):
                part(model, CUTS.model_copy(update={"prompt_tokens": 11}))

    def test_of_images_of_another_size(self) -> None:
        with pytest.raises(ModelError, match="cannot read images of 32 pixels"):
            client_of(section("vit").model_copy(update={"image_size": 32}))

    @pytest.mark.parametrize(("layer", "refuses", "loads"), [(2, body_of, client_of), (3, client_of, body_of)])
    def test_of_missing_tensors_come_from_the_part_that_lacks_them(
        self, layer: int, refuses: Callable[..., Any], loads: Callable[..., Any], tmp_path: Path
    ) -> None:
        path = make(tmp_path, "bert")
        rewrite(path, lambda name: layer_number(name) != layer or "query" not in name)
        with pytest.raises(ModelError, match="lacks 2 weights"):
            refuses(section("bert", path))
        loads(section("bert", path))

    @pytest.mark.parametrize("part", [client_of, body_of])
    def test_of_damaged_files(self, part: Callable[..., Any], tmp_path: Path) -> None:
        path = make(tmp_path, "gpt2") / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-64])
        with pytest.raises(ModelError, match="damaged"):
            part(section("gpt2", tmp_path))

    @pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": [1]}', '{"weight_map": {"h.1.x": "none"}}'])
    def test_of_a_damaged_index(self, text: str, tmp_path: Path) -> None:
        path = make(tmp_path, "gpt2")
        (path / "model.safetensors").rename(path / "model-00001-of-00001.safetensors")
        (path / "model.safetensors.index.json").write_text(text)
        for part in (client_of, body_of):
            with pytest.raises(ModelError, match="damaged"):
                part(section("gpt2", path))


MEASURE = """
import sys
from pathlib import Path
from tests.split.split_models import section
from tests.split.test_split_load import body_of, bytes_of, client_of, resident
parts = {"client": lambda model: client_of(model).model, "body": body_of}
for load in parts.values():
    load(section("llama"))  # whatever is imported on the way is there before
for name, load in parts.items():
    start = resident(reset=True)
    part = load(section("llama", Path(sys.argv[1])))
    print(name, resident() - start, bytes_of(part))
"""


def resident(*, reset: bool = False) -> int:
    """The most memory that this process held since the last reset, bytes."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the kernel does not tell the peak")
def test_a_part_takes_at_its_peak_the_memory_of_its_own_numbers(tmp_path: Path) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 4}
    large = make(tmp_path, "llama", vocab_size=30_000, **sizes)
    slack = 6_000_000  # what the allocator and the files' headers take beside the numbers
    told = subprocess.run([sys.executable, "-c", MEASURE, str(large)], capture_output=True, text=True, check=True)
    measured = dict(zip(("client", "body"), told.stdout.splitlines()[-2:], strict=True))
    files = sum(tensor.numel() * 4 for tensor in on_disk(large).values())
    for name, line in measured.items():
        part, peak, own = line.split()
        assert part == name
        assert int(own) - slack <= int(peak) <= int(own) + slack
        assert int(own) + 5 * slack < files


def test_a_part_of_a_checkpoint_of_an_older_transformers_is_read(tmp_path: Path) -> None:
    """ViT's layers were called otherwise: the files keep the old names."""
    names = set(on_disk(folder("vit")))
    assert any(name.startswith("encoder.layer.") for name in names)
    parts = ClientParts.of(split("vit").client.model, split("vit").body.cut, "image-classification")
    assert parts.head(batch("vit")).hidden.shape == (3, 5, 16)
