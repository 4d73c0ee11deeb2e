"""`fedtune policy`, and the options of `fedtune client` that go with it."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from client.cli import client
from client.policy.book import Book
from client.policy.cli import policy
from client.policy.guard import Guard
from client.policy.load import load_policy
from client.policy.preview import preview
from client.policy.set_up import books_of, set_up_guard
from client.policy.shown import by_run, lines
from client.policy.where import default_folder, known, name_of
from fedtune.errors import PrivacyError
from fedtune.privacy.events import Event
from tests.client.budgets import DELTA, entry_of, gaussian_epsilon, policy_of, recipe_of, task_of

RECIPE = """
[model]
name = "minilm"
[data]
source = "movie-reviews"
[training]
steps = 4
max_grad_norm = "none"
[aggregation]
weights = "uniform"
[privacy]
unit = "example"
delta = 1e-5
noise_multiplier = 1.0
sampling_rate = 0.05
"""


def invoke(command: click.Command, *args: object) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args])


def new(file: Path, *args: object) -> Result:
    return invoke(policy, "new", file, "--dataset", "ward-3", "--epsilon", "3", "--delta", "1e-5", *args)


def test_a_new_policy_is_read_as_it_is_and_with_every_comment_taken_in(tmp_path: Path) -> None:
    assert new(tmp_path / "policy.toml").exit_code == 0
    read = load_policy(tmp_path / "policy.toml")
    assert read.budget is not None
    assert (read.dataset, read.budget.epsilon, read.budget.delta) == ("ward-3", 3.0, 1e-5)
    text = (tmp_path / "policy.toml").read_text()
    names = set(type(read).model_fields)
    taken = [line.removeprefix("# ") if line[2:].split(" = ")[0] in names else line for line in text.splitlines()]
    (tmp_path / "policy.toml").write_text("\n".join(taken))
    read = load_policy(tmp_path / "policy.toml")
    assert all(getattr(read, name) not in ("", (), None) for name in names)


def test_a_policy_is_not_overwritten_unasked(tmp_path: Path) -> None:
    new(tmp_path / "policy.toml")
    assert isinstance(new(tmp_path / "policy.toml").exception, PrivacyError)
    assert new(tmp_path / "policy.toml", "--force").exit_code == 0
    assert isinstance(new(tmp_path / "missing" / "policy.toml").exception, PrivacyError)


@pytest.mark.parametrize(("option", "value"), [("--epsilon", "0"), ("--delta", "0.5"), ("--dataset", "a b")])
def test_a_policy_that_cannot_be_is_wrong_usage(tmp_path: Path, option: str, value: str) -> None:
    result = new(tmp_path / "policy.toml", option, value)
    assert result.exit_code == 2
    assert option in result.output
    assert not (tmp_path / "policy.toml").exists()


def test_check_says_what_a_policy_allows_and_where_it_is_wrong(tmp_path: Path) -> None:
    new(tmp_path / "policy.toml")
    said = invoke(policy, "check", tmp_path / "policy.toml").output.splitlines()
    assert {"dataset: ward-3", "units: example", "without_privacy: False", "budget: ε 3 at δ = 1e-05"} <= set(said)
    (tmp_path / "policy.toml").write_text("dataset = 3")
    result = invoke(policy, "check", tmp_path / "policy.toml")
    assert isinstance(result.exception, PrivacyError)
    assert "line 1" in str(result.exception)


def test_a_recipe_is_checked_against_the_policy_and_what_is_left(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(RECIPE)
    recipe = str(tmp_path / "my.toml")
    allowed = policy_of(100.0, hours="00:00-00:01")
    assert "is allowed: after its whole run ε" in preview(allowed, recipe, [], gaussian_epsilon)
    with pytest.raises(PrivacyError, match=r"more than budget\.epsilon = 100"):
        preview(allowed, recipe, [entry_of(Event(noise_multiplier=0.08))], gaussian_epsilon)
    with pytest.raises(PrivacyError, match="models does not name"):
        preview(policy_of(models=("another",)), recipe, [], gaussian_epsilon)
    assert preview(policy_of(), recipe, []) == f"{recipe} is allowed"
    (tmp_path / "plain.toml").write_text(RECIPE.split("[privacy]", maxsplit=1)[0])
    plain = preview(policy_of(without_privacy=True), str(tmp_path / "plain.toml"), [])
    assert plain.endswith("without any privacy")


def test_show_tells_what_was_spent_by_run_and_what_is_left(tmp_path: Path) -> None:
    book, recipe, cheap = Book(tmp_path, "rows"), recipe_of(), recipe_of(privacy={})
    for name, coordinator in (("first-run", "a:1"), ("second-run", "b:2")):
        guard = Guard(book, coordinator=coordinator)
        guard.reserve(task_of(recipe, run=name), recipe, "me", rows=7919)()
    Guard(book, coordinator="b:2").reserve(task_of(cheap, run="second-run"), cheap, "me", rows=7919)
    entries = book.entries()
    first, second = by_run(entries, DELTA, gaussian_epsilon)
    assert (first.tasks, first.unfinished, second.tasks, second.unfinished) == (1, 0, 2, 1)
    said = lines("rows", entries, DELTA, policy_of(50.0).budget, gaussian_epsilon)
    whole = gaussian_epsilon([Event(noise_multiplier=1.0, count=8)], DELTA)
    assert (
        said[0] == f"rows: ε {whole:.4g} of 50 is spent at δ = 1e-05 (one row there or not); {50 - whole:.4g} is left"
    )
    assert said[1] == "  1 task without privacy, which no ε bounds"
    assert said[2].startswith("  run first-run for a:1: 1 task, ε ")
    assert ", 1 unfinished," in said[3]
    assert "7919" not in "".join(said)
    assert "7919" not in (tmp_path / "rows.jsonl").read_text()


def test_show_finds_the_books_of_this_machine(tmp_path: Path) -> None:
    assert invoke(policy, "show", "--budget", tmp_path / "none").output == "nothing was spent on this machine\n"
    plain = recipe_of(privacy={})
    for name in ("rows", "others"):
        Guard(Book(tmp_path, name)).reserve(task_of(plain), plain, "me", rows=1)
    result = invoke(policy, "show", "--budget", tmp_path)
    assert [line.split(":")[0] for line in result.output.splitlines() if not line.startswith(" ")] == ["others", "rows"]
    new(tmp_path / "policy.toml", "--dataset", "rows")
    assert "rows: ε 0 of 3" in invoke(policy, "show", tmp_path / "policy.toml", "--budget", tmp_path).output
    assert known(tmp_path) == ["others", "rows"]


def test_a_data_set_without_a_policy_is_known_by_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "rows.jsonl")
    assert name_of(tmp_path / "rows.jsonl") == name_of(tmp_path / "link.jsonl") != name_of(tmp_path / "others.jsonl")
    assert default_folder().name == "budget"


def test_a_policy_counts_what_was_spent_before_there_was_one(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    new(tmp_path / "policy.toml")
    guard = set_up_guard(data, tmp_path / "policy.toml", tmp_path)
    assert guard.book.dataset == "ward-3"
    assert [book.dataset for book in guard.earlier] == [name_of(data)]
    assert set_up_guard(data, None, tmp_path).book.dataset == name_of(data)
    same = policy_of(dataset=name_of(data))
    assert [book.dataset for book in books_of(data, same, tmp_path)] == [name_of(data)]


def test_a_client_says_what_is_wrong_with_its_policy_before_it_connects(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "b"}\n')
    (tmp_path / "policy.toml").write_text("dataset = 3")
    place = ["--coordinator", "localhost:1", "--insecure", "--name", "me", "--retry-for", "0"]
    result = invoke(client, *place, "--data", tmp_path / "rows.jsonl", "--policy", tmp_path / "policy.toml")
    assert isinstance(result.exception, PrivacyError)
    assert "policy.toml, line 1: dataset must be" in str(result.exception)
