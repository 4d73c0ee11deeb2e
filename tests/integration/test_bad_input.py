"""What goes wrong in a person's hands: a sentence that says what to change, an exit code, and nothing lost."""

import json
import shutil

import pytest

from fedtune.recipe.dump import dump
from fedtune.runs.folder import RunFolder
from tests.worlds import tiny_recipe, write_rows

TWO = '{"text": "a good film", "label": "positive"}\n{"text": "a bad film", "label": "negative"}\n'


@pytest.fixture
def recipe_file(tiny_bert_folder, tmp_path):
    """Writes a recipe of one short round, with sections changed, and returns its path."""

    def write(name="run", **sections):
        sections.setdefault("data", {"source": str(write_rows(tmp_path / "rows.jsonl", 40))})
        sections.setdefault("federation", {"rounds": 1})
        sections["run"] = {"name": name, "folder": str(tmp_path / "runs"), "tensorboard": False}
        path = tmp_path / f"{name}.toml"
        path.write_text(dump(tiny_recipe(tiny_bert_folder, "", tmp_path, **sections)))
        return path

    return write


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("", "model"),
        ('[model]\nname = "minilm"\n[traning]\nlr = 1e-3\n', "line 3"),
        ('[model]\nname = "minilm"\n[training]\nlr = "fast"\n', "line 4"),
        ('[model]\nname = "minilm"\n[training]\nlr = \n', "line 4"),
        ('[model]\nname = "minilm"\n[adapter]\nkind = "square"\ndropout = 0.5\n', "dropout"),
        ('[model]\nname = "no-such-model-anywhere"\n[data]\nsource = "rows.jsonl"\n', "rows.jsonl"),
    ],
)
def test_a_mistake_in_a_recipe(fails, tmp_path, toml, said):
    (tmp_path / "bad.toml").write_text(toml)
    assert said in fails("simulate", tmp_path / "bad.toml", "--set", f"run.folder={tmp_path / 'runs'}")
    assert not (tmp_path / "runs").exists()


def test_two_mistakes_are_two_lines(fedtune, tmp_path):
    (tmp_path / "bad.toml").write_text('[model]\nname = "minilm"\n[training]\nlr = -1\nbatch_size = "x"\n')
    result = fedtune("simulate", tmp_path / "bad.toml")
    assert result.exit_code == 1
    assert [line.split(":")[0].rsplit("/")[-1] for line in result.stderr.splitlines()] == [
        "Error",
        "bad.toml, line 4",
        "bad.toml, line 5",
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"txt": "a", "label": "x"}\n' * 8, 'no column "text"; did you mean "txt"?'),
        ("a.jsonl", b'{"text": "a", "label": "x"}\n' * 8, "nothing to tell apart"),
        ("a.csv", b"text,label\na,Good\nb,good\nc,bad\n" * 1, 'the class "good" beside "Good"'),
        ("a.csv", b"text,label\ngood,a\ncaf\xe9,b\n", "line 3, byte 4"),
        ("a.csv", "text,label\nx,a\n".encode("utf-16"), "save the file as UTF-8"),
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", TWO.encode() * 2, "rows are too few"),
    ],
    ids=["missing column", "one class", "one class twice", "mixed encodings", "utf-16", "empty", "few rows"],
)
def test_a_bad_data_file(fails, recipe_file, tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    recipe = recipe_file(data={"source": str(tmp_path / name), "partition": {"clients": 8}})
    assert said in fails("simulate", recipe, "--set", "model.labels=[]")
    assert (tmp_path / name).read_bytes() == content
    assert not list((tmp_path / "runs").rglob("rounds.jsonl"))


def test_clients_of_one_row_take_part(fedtune, recipe_file, tmp_path):
    data = {"source": str(write_rows(tmp_path / "few.jsonl", 8)), "test_fraction": 0.25, "holdout_fraction": 0.5}
    result = fedtune("simulate", recipe_file(data={**data, "partition": {"clients": 6}}))
    assert result.exit_code == 0, result.output
    last = RunFolder.open(tmp_path / "runs/run").rounds()[-1]
    assert [(c.outcome, c.examples) for c in last.clients] == [("ok", 1)] * 6
    assert last.federated is None


def test_a_client_without_data_says_so_and_the_round_goes_on(fedtune, recipe_file, tmp_path):
    rows = write_rows(tmp_path / "skewed.jsonl", 40)
    partition = {"scheme": "dirichlet", "alpha": 0.02, "clients": 6, "min_rows": 0}
    result = fedtune("simulate", recipe_file(data={"source": str(rows), "partition": partition}))
    assert result.exit_code == 0, result.output
    last = RunFolder.open(tmp_path / "runs/run").rounds()[-1]
    outcomes = [c.outcome for c in last.clients]
    assert set(outcomes) == {"ok", "no-data"}
    assert last.aggregated
    assert sum(c.examples for c in last.clients) == 30
    assert all("log" in c.detail and c.bytes_up > 0 for c in last.clients if c.outcome == "no-data")


@pytest.fixture(scope="module")
def finished(tiny_bert_folder, tmp_path_factory):
    """The recipe file of a finished run; the run must stay as it is."""
    from simulations.simulate import simulate

    folder = tmp_path_factory.mktemp("finished")
    rows = write_rows(folder / "rows.jsonl", 40)
    recipe = tiny_recipe(tiny_bert_folder, rows, folder, federation={"rounds": 2}, run={"folder": str(folder)})
    simulate(recipe)
    (folder / "recipe.toml").write_text(dump(recipe))
    return folder / "recipe.toml"


def test_a_finished_run_is_neither_overwritten_nor_resumed_with_another_recipe(fails, finished):
    before = contents(finished.parent / "run")
    assert "--resume" in fails("simulate", finished)
    assert "adapter.rank" in fails("simulate", finished, "--resume", "--set", "adapter.rank=8")
    assert contents(finished.parent / "run") == before


def test_a_folder_of_something_else_is_left_alone(fails, recipe_file, tmp_path):
    (tmp_path / "runs/run").mkdir(parents=True)
    (tmp_path / "runs/run/thesis.tex").write_text("years of work")
    assert "thesis.tex" in fails("simulate", recipe_file())
    assert (tmp_path / "runs/run/thesis.tex").read_text() == "years of work"
    assert not (tmp_path / "runs/run/run.json").exists()


DAMAGE = {
    "cut": lambda state: state.write_bytes(state.read_bytes()[:-9]),
    "changed": lambda state: state.write_bytes(state.read_bytes()[:-1] + b"?"),
    "gone": lambda state: state.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_not_exported(fails, finished, tmp_path, damage):
    run = tmp_path / "run"
    shutil.copytree(finished.parent / "run", run)
    for state in run.glob("checkpoints/round-*/state.safetensors"):
        DAMAGE[damage](state)
    before = contents(run)
    assert "checkpoint" in fails("export", run, "--to", tmp_path / "out")
    assert contents(run) == before
    assert not (tmp_path / "out").exists()


def test_a_damaged_run_is_one_sentence_for_every_command(fails, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished.parent / "run", run)
    (run / "run.json").write_text(json.dumps({"format": 1})[:-3])
    for command in (["export", run, "--to", tmp_path / "out"], ["report", run]):
        assert "damaged" in fails(*command)
    assert "no run folder" in fails("report", tmp_path)
