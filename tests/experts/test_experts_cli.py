"""`fedtune compress` and `fedtune merge` as a person calls them, on a tiny model and forty sentences."""

import json
import re

import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from fedtune.adapters.saved import CARD, COMPRESSED, CONFIG, WEIGHTS
from fedtune.cli.compress import compress
from fedtune.cli.merge import merge
from fedtune.errors import AdapterError, RunError
from fedtune.experts.compose import Composer
from fedtune.experts.expert import read_plain
from fedtune.experts.scoring import Bench
from fedtune.recipe.load import load_recipe
from tests.experts.experts_examples import change_config, make_adapter, products_of, size
from tests.factories import SENTENCES


def called(command, *args):
    result = CliRunner().invoke(command, list(map(str, args)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def made(tiny_bert_folder, tmp_path_factory):
    """Three adapters and a recipe with rows of three classes."""
    folder = tmp_path_factory.mktemp("made")
    rows = [{"text": SENTENCES[i % 6], "label": "abc"[i % 3]} for i in range(120)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "my.toml").write_text(
        f'[model]\nname = "{tiny_bert_folder}"\nlabels = ["a", "b", "c"]\nmax_length = 16\n'
        f'[data]\nsource = "{folder}/rows.jsonl"\ntest_fraction = 0.5\n[training]\ndevice = "cpu"\n'
    )
    for seed in (1, 2, 3):
        make_adapter(folder / f"adapter-{seed}", tiny_bert_folder, seed=seed)
    return folder


def test_there_and_back(made, tmp_path):
    said = called(compress, made / "adapter-1", "--to", tmp_path / "small", "--density", "0.1").output
    small = {path.name for path in (tmp_path / "small").iterdir()}
    assert small == {CONFIG, COMPRESSED, CARD}
    before, after = size(made / "adapter-1"), size(tmp_path / "small", COMPRESSED)
    assert f"{before:,} bytes became {after:,}, {before / after:.1f} times less" in said
    error, cosine = map(float, re.search(r"relative error (0\.\d+), cosine (0\.\d+)", said).groups())
    assert error**2 + cosine**2 == pytest.approx(1, abs=0.01)
    said = called(compress, tmp_path / "small", "--to", tmp_path / "plain", "--restore").output
    assert said == f"{tmp_path / 'plain'}: a plain PEFT folder\n"
    assert load_file(tmp_path / "plain" / WEIGHTS).keys() == load_file(made / "adapter-1" / WEIGHTS).keys()


def test_every_option_of_compress_arrives(made, tmp_path):
    options = {"density": 0.5, "scale": "sigma", "alpha": 3, "threshold": "global", "coder": "bitmask", "head": "as-is"}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    called(compress, made / "adapter-1", "--to", tmp_path / "small", *words)
    called(compress, tmp_path / "small", "--to", tmp_path / "plain", "--restore")
    before, after = read_plain(made / "adapter-1"), read_plain(tmp_path / "plain")
    x, y = (torch.cat([e.deltas[n].reshape(-1) for n in sorted(e.deltas)]) for e in (before, after))
    assert int(y.count_nonzero()) == len(x) // 2
    assert float(y.abs().max()) == pytest.approx(3 * float(x.double().std(correction=0)))
    assert all(torch.equal(tensor, after.tensors[name]) for name, tensor in before.others.items())


def test_a_folder_that_is_taken_is_left_alone_without_force(made, tmp_path):
    called(compress, made / "adapter-1", "--to", tmp_path / "small")
    for command, args in ((compress, [made / "adapter-2"]), (merge, [made / "adapter-1", made / "adapter-2"])):
        with pytest.raises(RunError, match="exists; choose another --to"):
            called(command, *args, "--to", tmp_path / "small")
    called(merge, made / "adapter-1", made / "adapter-2", "--to", tmp_path / "small", "--force")
    assert (tmp_path / "small" / WEIGHTS).is_file()
    assert not (tmp_path / "small" / COMPRESSED).exists()


def test_the_search_prints_its_table_and_takes_the_best(made, tmp_path):
    recipe = ("--search", "--recipe", made / "my.toml", "--examples", "20")
    said = called(compress, made / "adapter-1", "--to", tmp_path / "small", *recipe).output
    table = re.findall(r"^ *(0\.\d+)  (least-squares|[\d.]+σ) +(\d+\.\d+) +(\d+\.\d)%$", said, re.MULTILINE)
    assert len(table) == 5 * 10
    assert "(20 test rows)" in said
    assert re.search(r"uncompressed +\d+\.\d{4} +\d+\.\d%", said)
    density, scale = re.search(r"the best: density ([\d.]+), scale (\S+)", said).groups()
    best = min(table, key=lambda row: (-float(row[3]), float(row[2]), float(row[0])))
    assert (density, scale) == best[:2]


def test_merging_sums_what_is_weighted(made, tmp_path):
    called(compress, made / "adapter-2", "--to", tmp_path / "small", "--density", "1.0")
    called(compress, tmp_path / "small", "--to", tmp_path / "two", "--restore")
    weights = ["--weight", "0.75", "--weight", "-0.5"]
    said = called(merge, made / "adapter-1", tmp_path / "small", "--to", tmp_path / "both", *weights).output
    assert said == f"{tmp_path / 'both'}: a LoRA adapter of rank 8, by task-arithmetic\n"
    one, two = products_of(made / "adapter-1"), products_of(tmp_path / "two")
    for name, product in products_of(tmp_path / "both").items():
        torch.testing.assert_close(product, 0.75 * one[name] - 0.5 * two[name], rtol=0, atol=1e-6)


def test_ties_keeps_the_rank_and_is_scored_where_a_recipe_is_named(made, tmp_path):
    folders = [made / f"adapter-{seed}" for seed in (1, 2, 3)]
    options = ("--method", "ties", "--density", "0.3", "--recipe", made / "my.toml", "--examples", "10")
    said = called(merge, *folders, "--to", tmp_path / "all", *options).output
    assert "on 50 other test rows:" in said
    assert [line.strip().rpartition(": loss")[0] for line in said.splitlines()[1:5]] == [*map(str, folders), "merged"]
    assert said.splitlines()[-1] == f"{tmp_path / 'all'}: a LoRA adapter of rank 4, by ties"
    expected = Composer(folders).ties((1.0, 1.0, 1.0), 0.3).products
    for name, product in products_of(tmp_path / "all").items():
        torch.testing.assert_close(product, expected[name][1].double() @ expected[name][0].double(), rtol=0, atol=1e-7)


def test_lorahub_finds_better_weights_on_the_examples(made, tmp_path):
    folders = [made / f"adapter-{seed}" for seed in (1, 2, 3)]
    options = ("--method", "lorahub", "--recipe", made / "my.toml", "--examples", "30", "--steps", "20", "--l1", "0")
    said = called(merge, *folders, "--to", tmp_path / "fitted", *options).output
    found = re.search(r"on 30 examples: (\d+\.\d+) with equal weights, (\d+\.\d+) with (.*)", said)
    assert float(found[2]) < float(found[1])
    weights = [float(word) for word in found[3].split(", ")]
    terms = [products_of(folder) for folder in folders]
    for name, product in products_of(tmp_path / "fitted").items():
        expected = sum(weight * term[name] for weight, term in zip(weights, terms, strict=True))
        assert (product - expected).abs().max() <= 0.002  # three printed digits of each weight
    assert "on 30 other test rows:" in said


def test_a_bench_scores_what_peft_computes(made, tiny_bert_folder):
    """The loss on the examples is that of the model with the adapter, by PEFT, on the same rows."""
    folder = made / "adapter-2"
    adapter = read_plain(folder).adapter()
    bench = Bench.of(load_recipe(str(made / "my.toml")), [adapter, adapter], examples=16)
    assert (len(bench.examples), len(bench.rest)) == (16, 44)
    fresh = AutoModelForSequenceClassification.from_pretrained(tiny_bert_folder, num_labels=3)
    model = PeftModel.from_pretrained(fresh, folder).eval()
    batch = bench.examples.batch(range(16))
    with torch.no_grad():
        loss = model(**batch).loss
    before = bench.choose(adapter)
    assert before.loss == pytest.approx(float(loss), abs=1e-5)
    bench.choose(read_plain(made / "adapter-1").adapter())
    assert bench.choose(adapter) == before


@pytest.mark.parametrize(
    ("command", "args", "said"),
    [
        (compress, ["x", "--to", "y", "--search"], "--search takes the rows of a --recipe"),
        (compress, ["x", "--to", "y", "--recipe", "z"], "--recipe is for --search"),
        (compress, ["x", "--to", "y", "--density", "0"], "is not in the range"),
        (merge, ["x", "y", "--to", "z", "--weight", "1"], "--weight is given once for each adapter"),
        (merge, ["x", "y", "--to", "z", "--method", "lorahub"], "lorahub finds the weights on rows of a --recipe"),
        (merge, ["--to", "z"], "Missing argument"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_read(command, args, said):
    result = called(command, *args)
    assert result.exit_code == 2
    assert said in result.output


def test_errors_say_what_differs(made, tmp_path, tiny_bert_folder):
    with pytest.raises(AdapterError, match=r"holds no adapter_config\.json"):
        called(compress, tmp_path / "nowhere", "--to", tmp_path / "y")
    other = change_config(make_adapter(tmp_path / "other", tiny_bert_folder), base_model_name_or_path="big")
    with pytest.raises(AdapterError, match=r"other cannot be merged with .*adapter-1: it is for the base model 'big'"):
        called(merge, made / "adapter-1", other, "--to", tmp_path / "y")
    narrow = make_adapter(tmp_path / "narrow", tiny_bert_folder, targets=("key",))
    with pytest.raises(AdapterError, match="among the layers that it adapts"):
        called(merge, made / "adapter-1", narrow, "--to", tmp_path / "y")
    assert not (tmp_path / "y").exists()
