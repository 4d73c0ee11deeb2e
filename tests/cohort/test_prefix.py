"""The frozen layers are computed once a row; what is kept is what would be computed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedtune.adapters.shift import NO_SHIFT, Shift
from fedtune.cohort.lowest import lowest_layer
from fedtune.cohort.packed import PackedPass
from fedtune.cohort.room import Room
from fedtune.data.ragged import Ragged
from fedtune.data.rows import EncodedRows
from fedtune.data.store import TextStore
from fedtune.split.family import FAMILIES
from tests.cohort.adapted import adapted, assert_agree, rows_of
from tests.split.split_models import LAYERS

LENGTHS = (7, 3, 12, 7, 2)
LAST = LAYERS - 1


def kept(a_pass: PackedPass) -> tuple[int, int, int]:
    """How often rows were found in memory, on disk and nowhere."""
    assert a_pass._prefix is not None
    counts = a_pass._prefix.cache.counts
    return counts.memory, counts.disk, counts.missing


@pytest.mark.parametrize("family", ["bert", "llama", "vit"])
def test_a_row_is_computed_once_and_its_numbers_do_not_depend_on_its_neighbours(family: str) -> None:
    resident, rows = adapted(family, first=LAST, only=("query", "q_proj")), rows_of(family, LENGTHS)
    alone, together = PackedPass(resident, None), PackedPass(resident, None)
    some = [row for row in range(5) if len(alone.logits([(rows, [row])]).targets)]
    assert kept(alone) == (0, 0, len(some))
    together.logits([(rows, [4, 1]), (rows, [0, 2, 3])])
    assert kept(together) == (0, 0, len(some))
    one, other = (a_pass.logits([(rows, [0, 1, 2]), (rows, [3, 4])]).logits for a_pass in (alone, together))
    assert torch.equal(one, other)
    assert kept(alone) == (len(some), 0, len(some))


def test_rows_that_are_asked_for_twice_in_a_pass_are_computed_once() -> None:
    resident, rows = adapted("bert", first=2), rows_of("bert", LENGTHS)
    a_pass = PackedPass(resident, None)
    assert_agree(resident, a_pass, [(rows, [0, 1]), (rows, [1, 0, 1])])
    assert kept(a_pass) == (0, 0, 2)


@pytest.mark.parametrize("spills", [False, True])
def test_a_budget_that_is_too_small_costs_time_alone(
    spills: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedtune.cohort.cache.PASSING_BYTES", 0)
    resident, rows = adapted("gpt2", first=2), rows_of("gpt2", (12,) * 8, seed=3)
    enough, parts = PackedPass(resident, None), [(rows, [0, 1, 2, 3]), (rows, [4, 5, 6, 7])]
    expected = enough.logits(parts).logits
    assert enough._prefix is not None
    room = enough._prefix.cache.bytes // 2
    a_pass = PackedPass(resident, None, room=Room(room, tmp_path if spills else None))
    for _ in range(4):
        assert torch.equal(a_pass.logits(parts).logits, expected)
    memory, disk, missing = kept(a_pass)
    assert a_pass._prefix is not None
    assert a_pass._prefix.cache.bytes <= room
    count = len(enough._prefix.cache)
    assert (memory, disk, missing) == ((12, 12, 8) if spills else (12, 0, 8 + 12))
    assert count == 8
    a_pass.close()
    assert list(tmp_path.iterdir()) == []


def test_nothing_kept_is_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedtune.cohort.cache.PASSING_BYTES", 0)
    resident, rows = adapted("bert", first=2), rows_of("bert", LENGTHS)
    enough, none = PackedPass(resident, None), PackedPass(resident, None, room=Room(0))
    parts = [(rows, [0, 1, 2]), (rows, [3, 4])]
    for _ in range(2):
        assert torch.equal(none.logits(parts).logits, enough.logits(parts).logits)
    assert kept(none) == (0, 0, 2 * len(LENGTHS))
    assert none.tokens(parts[0]) == enough.tokens(parts[0])
    assert "layers 0-1 computed anew each time" in none.notes()


def test_evaluation_does_not_spoil_what_training_reads() -> None:
    resident, rows = adapted("bert", first=1), rows_of("bert", LENGTHS)
    a_pass = PackedPass(resident, None)
    with torch.inference_mode():
        a_pass.logits([(rows, [0, 1, 2])])
    assert_agree(resident, a_pass, [(rows, [2, 1, 0])])
    assert kept(a_pass)[2] == 3


def test_other_base_weights_are_seen() -> None:
    family = "qwen2"
    resident, rows = adapted(family, first=2, only=("v_proj", "up_proj")), rows_of(family, LENGTHS)
    a_pass, parts = PackedPass(resident, None), [(rows, [0, 1, 2, 3, 4])]
    draw = torch.Generator().manual_seed(0)
    module = "model.layers.2.self_attn.v_proj"
    shape = resident.attached.target_shapes()[module]
    first = NO_SHIFT.then({f"{module}.D": torch.randn(shape, generator=draw)})
    second = first.then({f"{module}.D": torch.randn(shape, generator=draw)})
    behind = NO_SHIFT.then({"model.layers.3.mlp.up_proj.D": torch.randn(32, 16, generator=draw)})
    for shift in (NO_SHIFT, first, second, NO_SHIFT, behind, first):
        resident.attached.shift_to(shift)
        a_pass.begin(shift)
        assert_agree(resident, a_pass, parts)
    rounds, missing = 6, kept(a_pass)[2]
    assert missing < rounds * len(LENGTHS) / 2


def test_a_shift_below_the_trained_layers_switches_it_off() -> None:
    resident, rows = adapted("bert", first=2), rows_of("bert", LENGTHS)
    a_pass = PackedPass(resident, None)
    a_pass.logits([(rows, [0])])
    weight = resident.attached.model.bert.encoder.layer[0].output.dense.weight  # type: ignore[union-attr]
    with torch.no_grad():
        weight.add_(0.1)
    a_pass.begin(Shift({"bert.encoder.layer.0.output.dense.D": torch.full(weight.shape, 0.1)}, "other"))
    assert_agree(resident, a_pass, [(rows, [0, 1])])
    assert a_pass.tokens((rows, [2])) == PackedPass(resident, None, keep=False).tokens((rows, [2]))


def test_where_the_training_begins() -> None:
    bert, family = adapted("bert", first=2), FAMILIES["bert"]
    assert lowest_layer(bert, family) == 2
    assert lowest_layer(adapted("bert", first=1, only=("3.output.dense",)), family) == 3
    embeddings = "bert.embeddings.word_embeddings"
    for module, expected in (
        (embeddings, f"{embeddings}.weight is trained, which stands before the layers"),
        ("bert.pooler.dense", 2),
        ("bert.encoder.layer.1.output.LayerNorm", 1),
    ):
        parameter = bert.attached.model.get_submodule(module).get_parameter("weight")
        bert.attached._parameters["more"] = parameter  # type: ignore[attr-defined]
        assert lowest_layer(bert, family) == expected
    bert.attached._parameters["more"] = torch.nn.Parameter(torch.zeros(1))  # type: ignore[attr-defined]
    assert lowest_layer(bert, family) == "more stands outside of the model"
    assert PackedPass(bert, None).unkept == "more stands outside of the model"


def test_with_the_head_alone_trained_no_layer_is_left() -> None:
    resident, rows = adapted("bert", first=LAST, only=("query",)), rows_of("bert", LENGTHS)
    heads = {name: p for name, p in resident.attached.parameters().items() if name.startswith("head.")}
    resident.attached._parameters = heads  # type: ignore[attr-defined]
    a_pass = PackedPass(resident, None)
    for _ in range(2):
        assert_agree(resident, a_pass, [(rows, [0, 1, 2]), (rows, [3, 4])])
    assert a_pass._prefix is not None
    assert a_pass._prefix.layer == LAYERS


def test_rows_that_are_read_once_are_not_kept() -> None:
    once = PackedPass(adapted("bert", first=2, rounds=1), None)
    assert once.unkept == "each row is read once"


def test_views_of_a_table_name_its_rows_alike() -> None:
    store = TextStore(Ragged([[5, 6, 7], [8, 9], [5, 6, 7]]), np.array([0, 1, 2]), pad_id=0)
    rows, other = EncodedRows(store), EncodedRows(TextStore(Ragged([[5]]), np.array([0]), 0))
    assert rows.subset([2, 1]).keys([1, 0]) == rows.keys([1, 2])
    assert not {*rows.keys([0, 1, 2])} & {*other.keys([0])}
