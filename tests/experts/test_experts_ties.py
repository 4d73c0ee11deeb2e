"""TIES is what its paper says, number by number; on the masks of compressed adapters it is the same, bit for bit."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedtune.compression.masks import masks_of
from fedtune.errors import AdapterError
from fedtune.experts import ties
from fedtune.experts.compose import Composer
from fedtune.experts.compressed import compress, read_expert
from fedtune.experts.expert import read_plain
from fedtune.recipe.compression import CompressionSection
from tests.experts.experts_examples import change_config, make_adapter


def by_hand(vectors, weights, density):
    """Trim, elect, disjoint mean: Python numbers, one at a time."""
    count = max(int(density * len(vectors[0])), 1)
    trimmed = []
    for vector in vectors:
        order = sorted(range(len(vector)), key=lambda i: (-abs(vector[i]), i))[:count]
        trimmed.append([vector[i] if i in order else 0.0 for i in range(len(vector))])
    merged = []
    for numbers in zip(*trimmed, strict=True):
        terms = [float(np.float32(x) * np.float32(w)) for x, w in zip(numbers, weights, strict=True)]
        total = sum(terms)
        agreeing = [term for term in terms if term * total > 0]
        merged.append(sum(agreeing) / len(agreeing) if agreeing else 0.0)
    return merged


VALUES = st.integers(-40, 40).map(lambda value: value / 8)
WEIGHTS = st.sampled_from([1.0, 0.5, 2.0, 0.25, -1.0])


@given(st.data(), st.integers(2, 5), st.integers(1, 12), st.sampled_from([0.25, 0.5, 1.0]))
def test_it_is_the_papers_procedure(data, count, length, density):
    vectors = [data.draw(st.lists(VALUES, min_size=length, max_size=length)) for _ in range(count)]
    weights = data.draw(st.lists(WEIGHTS, min_size=count, max_size=count))
    trimmed = [ties.trim({"t": torch.tensor(vector)}, density) for vector in vectors]
    found = ties.elect_and_average(trimmed, weights)
    np.testing.assert_allclose(found.numpy(), by_hand(vectors, weights, density), rtol=1e-6, atol=0)


@settings(max_examples=50)
@given(st.data(), st.integers(2, 6), st.integers(1, 300))
def test_masks_give_the_same_as_numbers_bit_for_bit(data, count, length):
    symbols = [data.draw(arrays.arrays(np.int8, length, elements=st.integers(-1, 1))) for _ in range(count)]
    scales = data.draw(st.lists(st.floats(-2, 2, width=32), min_size=count, max_size=count))
    weights = data.draw(st.lists(st.floats(-2, 2), min_size=count, max_size=count))
    numbers = [torch.from_numpy(s) * torch.tensor(scale) for s, scale in zip(symbols, scales, strict=True)]
    masks = [(masks_of(s), scale) for s, scale in zip(symbols, scales, strict=True)]
    dense, fast = ties.elect_and_average(numbers, weights), ties.elect_and_average_masks(masks, weights)
    assert torch.equal(dense, fast)


@pytest.fixture(scope="module")
def folders(tiny_bert_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ties")
    made = [make_adapter(folder / str(seed), tiny_bert_folder, seed=seed) for seed in (1, 2, 3)]
    return [change_config(one, lora_alpha=6) for one in made]


def deltas(folder):
    """The raw factors, flattened as published, with α/r in no factor."""
    state = read_plain(folder).deltas
    return torch.cat([state[name].reshape(-1) for name in sorted(state)])


def test_adapters_are_merged_factor_by_factor(folders):
    merged = Composer(folders).ties((1.0, 1.0, 1.0), 0.2)
    expected = torch.tensor(by_hand([deltas(folder).tolist() for folder in folders], (1.0, 1.0, 1.0), 0.2))
    scale = 6.0 / 4
    found = {}
    for name, (a, b) in merged.products.items():
        found |= {f"{name}.lora_A": a, f"{name}.lora_B": b / scale}
    torch.testing.assert_close(torch.cat([found[n].reshape(-1) for n in sorted(found)]), expected, rtol=1e-6, atol=0)
    assert set(merged.ranks().values()) == {4}
    heads = [read_plain(folder).others for folder in folders]
    for name, tensor in merged.head.items():
        mean = torch.stack([head[f"base_model.model.{name}"] for head in heads]).double().mean(0)
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("coder", ["rice", "bitmask"])
def test_compressed_adapters_are_merged_as_masks_to_what_their_restored_ones_give(
    folders, tmp_path, coder, monkeypatch
):
    small, restored = [], []
    for number, folder in enumerate(folders):
        small.append(tmp_path / f"small-{number}")
        compress(read_plain(folder), CompressionSection(density=0.1), coder=coder).write(small[-1])
        restored.append(tmp_path / f"plain-{number}")
        read_expert(small[-1]).write(restored[-1])
    dense = Composer(restored).ties((1.0, 0.5, 1.0), 0.2)
    monkeypatch.delattr(ties, "elect_and_average")  # masks it must be
    fast = Composer(small).ties((1.0, 0.5, 1.0), 0.2)
    for name, (a, b) in dense.products.items():
        assert torch.equal(a, fast.products[name][0])
        assert torch.equal(b, fast.products[name][1])
    assert all(torch.equal(tensor, fast.head[name]) for name, tensor in dense.head.items())


@pytest.mark.parametrize(
    "options",
    [
        {"section": CompressionSection(density=0.3)},
        {"section": CompressionSection(density=0.1, threshold="tensor")},
        {"section": CompressionSection(density=0.1), "head": "ternary"},
    ],
)
def test_what_masks_cannot_say_is_merged_as_numbers(folders, tmp_path, options, monkeypatch):
    small, restored = [], []
    for number, folder in enumerate(folders):
        small.append(tmp_path / f"small-{number}")
        compress(read_plain(folder), **options).write(small[-1])
        restored.append(tmp_path / f"plain-{number}")
        read_expert(small[-1]).write(restored[-1])
    monkeypatch.delattr(ties, "elect_and_average_masks")
    dense, other = (Composer(found).ties((1.0, 1.0, 1.0), 0.2) for found in (restored, small))
    assert all(torch.equal(pair[1], other.products[name][1]) for name, pair in dense.products.items())
    assert all(torch.equal(tensor, other.head[name]) for name, tensor in dense.head.items())


def test_other_ranks_and_scales_are_refused(folders, tiny_bert_folder, tmp_path):
    wide = make_adapter(tmp_path / "wide", tiny_bert_folder, rank=5)
    with pytest.raises(AdapterError, match=r"wide has rank 5 on .*query and .* rank 4: only task-arithmetic"):
        Composer([folders[0], wide]).ties((1.0, 1.0), 0.2)
    loud = change_config(shutil.copytree(folders[1], tmp_path / "loud"), lora_alpha=8)
    with pytest.raises(AdapterError, match=r"loud scales .*query by 2 and .* by 1\.5"):
        Composer([folders[0], loud]).ties((1.0, 1.0), 0.2)
    Composer([folders[0], wide, loud]).task_arithmetic((1.0, 1.0, 1.0))
