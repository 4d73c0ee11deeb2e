"""Reading a recipe: every mistake is said at once, with its line, what is wrong, what is allowed and what was meant."""

from pathlib import Path

import pytest

from fedtune.errors import RecipeError
from fedtune.recipe.load import load_recipe, parse_recipe, read_recipe

GOOD = """\
[model]
name = "minilm"
labels = ["ham", "spam"]

[training]
lr = 1
"""


def refusal(text: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, overrides, name="bad.toml")
    return str(caught.value).splitlines()


def test_whole_numbers_become_floats_and_arrays_tuples(tmp_path: Path) -> None:
    (tmp_path / "good.toml").write_text(GOOD)
    recipe = load_recipe(str(tmp_path / "good.toml"))
    assert recipe.training.lr == 1.0
    assert isinstance(recipe.training.lr, float)
    assert recipe.model.labels == ("ham", "spam")
    assert recipe.federation.rounds == 3


def test_every_mistake_is_said_once_with_its_line_in_the_order_of_the_file() -> None:
    said = refusal(
        '[model]\nname = "minilm"\ntask = "sequence-clasification"\n[trainin]\nx = 1\n'
        '[training]\nlerning_rate = 1\nlr = "1e-3"\nbatch_size = 1.5\n'
    )
    assert [line.split(":")[0] for line in said] == [f"bad.toml, line {n}" for n in (3, 4, 7, 8, 9)]
    assert 'did you mean "sequence-classification"?' in said[0]
    assert "did you mean [training]?" in said[1]
    assert "training.lerning_rate is not a key of [training]; did you mean 'lr'? Allowed: epochs, steps" in said[2]
    assert 'training.lr must be a number above 0, not "1e-3"' in said[3]
    assert "training.batch_size must be a whole number of at least 1, not 1.5" in said[4]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("training.lr = true", "must be a number above 0, not true"),
        ("training.lr = 0", "must be a number above 0, not 0"),
        ("training.lr = nan", "must be a number above 0, not nan"),
        ("training.lr = inf", "must be a number above 0, not inf"),
        ("training.lr = 1979-05-27", "must be a number above 0"),
        ("training.lr = [1]", "must be a number above 0, not [1]"),
        ("training.compile = 1", "must be true or false, not 1"),
        ('training.compile = "yes"', "must be true or false"),
        ("training.warmup_fraction = 1", "must be a number of at least 0 and below 1, not 1"),
        ("training.device = 'gpu'", '"auto", "cpu", "mps", "cuda" or "cuda:N"'),
        ("training = 3", "training is a section"),
        ("training.lr.x = 3", "must be a number above 0, not a table"),
        ("adapter.targets = 'all-lineer'", 'did you mean "all-linear"?'),
        ("adapter.targets = ['query', 3]", "adapter.targets[1] is 3"),
        ("adapter.rank = 0", "at least 1 and at most 4096"),
        ("run.name = '../x'", "up to 64 letters, digits, dots, dashes and underscores"),
        ("data.partition.alpha = 'much'", 'data.partition.alpha must be a number above 0, not "much"'),
        ("data.partition.kind = 'iid'", "data.partition.kind is not a key of [data.partition]"),
        ("compression.upload = 'fp16'", 'write ["fp16"]'),
        ("compression.upload = ['fp15']", '"fp16"'),
        ("num_rounds = 3", "did you mean 'federation.rounds'?"),
        ("training.num_rounds = 3", "did you mean 'federation.rounds'?"),
        ("model.learning_rate = 3", "did you mean 'training.lr'?"),
        ("adapter.r = 3", "did you mean 'rank'?"),
    ],
)
def test_each_kind_of_mistake_has_its_own_words(line: str, expected: str) -> None:
    said = refusal(f'model.name = "minilm"\n{line}\n')
    assert len(said) == 1
    assert said[0].startswith("bad.toml, line 2: ")
    assert expected in said[0]


@pytest.mark.parametrize(
    "line", ["training.lr = []", "training = 3", "adapter.targets = {}", "x = 1", "model.name = 1"]
)
def test_no_word_of_the_validator_reaches_the_user(line: str) -> None:
    said = " ".join(refusal(line))
    for word in ("pydantic", "Input should", "type=", "Extra inputs", "Field required", "validation error"):
        assert word not in said


def test_a_missing_model_says_what_to_add() -> None:
    assert refusal("") == ["bad.toml: there is no [model] section; add it with name = …"]
    assert "model.name is missing" in refusal("[model]\n")[0]


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("[model]\nname = minilm\n", 2, "texts stand in quotes"),
        ('[model]\nname = "a"\nname = "b"\n', 3, "twice"),
        ("[model\n", 1, "not TOML"),
        ("a = 1\n\nb\n", 3, "not TOML"),
        ('a = """never closed\n\n', 1, "not TOML"),
    ],
)
def test_wrong_syntax_is_one_sentence_with_its_line(text: str, line: int, expected: str) -> None:
    said = refusal(text)
    assert len(said) == 1
    assert said[0].startswith(f"bad.toml, line {line}:")
    assert expected in said[0]


def test_a_recipe_in_another_encoding_or_size_is_refused(tmp_path: Path) -> None:
    latin = tmp_path / "latin.toml"
    latin.write_bytes('a = 1\nb = "é"'.encode("latin-1"))
    with pytest.raises(RecipeError, match=r"latin.toml, line 2: the text is not UTF-8"):
        load_recipe(str(latin))
    huge = tmp_path / "huge.toml"
    huge.write_bytes(b"#" * (1 << 21))
    with pytest.raises(RecipeError, match="is no recipe"):
        load_recipe(str(huge))


def test_files_of_windows_read_as_others_do(tmp_path: Path) -> None:
    file = tmp_path / "windows.toml"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_recipe(str(file)).model.labels == ("ham", "spam")
    file.write_bytes(b"\xef\xbb\xbf" + (GOOD + "lrr = 1\n").replace("\n", "\r\n").encode())
    with pytest.raises(RecipeError, match=r"line 7: training.lrr"):
        load_recipe(str(file))


def test_a_recipe_that_is_not_there_is_looked_for_beside_and_among_the_ready(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(GOOD)
    with pytest.raises(RecipeError, match=r"did you mean 'mine.toml'"):
        load_recipe(str(tmp_path / "mien.toml"))
    with pytest.raises(RecipeError, match="did you mean 'movie-reviews'"):
        load_recipe("movie-review")
    with pytest.raises(RecipeError, match="is a folder"):
        load_recipe(str(tmp_path))


def test_the_story_of_each_value_is_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('method = "fed-sb"\n' + GOOD)
    loaded = read_recipe(tmp_path / "mine.toml", ["run.seed=7"])
    assert loaded.filled[("adapter", "kind")] == 'method "fed-sb"'
    assert loaded.source.place(("training", "lr")) == "mine.toml, line 7"
    assert loaded.source.place(("run", "seed")) == "--set run.seed=7"
    assert loaded.source.place(("run", "name")) == "mine.toml"
    assert loaded.recipe.run.seed == 7
