"""What a coordinator hears of a data owner's limits: a clear no that names the limit, and updates where it fits."""

import logging
from pathlib import Path

import pytest

from client.heads import Heads
from client.policy.book import Book
from client.policy.guard import Guard
from client.work import Workplace
from fedtune.audit.ledger import LedgerWriter, Offer
from fedtune.recipe import Recipe
from fedtune.wire import Evaluation, Refusal, Update
from tests.audit.ledger_examples import commit, opening, reserve
from tests.audit.ledger_examples import private_recipe as ledger_recipe
from tests.client.budgets import gaussian_epsilon, policy_of
from tests.client.places import Rows, ask, private_recipe


@pytest.fixture(scope="module")
def recipe(tiny_bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return private_recipe(
        tiny_bert_folder, tmp_path_factory.mktemp("rows"), privacy={"metrics": "noised", "metrics_noise": 3.0}
    )


def offer(folder: Path, rounds: int = 1) -> Offer:
    """A ledger of so many rounds."""
    from fedtune.privacy.plan import plan_of

    writer, of = LedgerWriter.of(folder), ledger_recipe()
    plan = plan_of(of)
    assert plan is not None
    if writer.last is None:
        writer.append(opening(writer, of))
    for round_ in range((writer.last.seq + 1 if writer.last else 0) // 2 + 1, rounds + 1):
        writer.append(reserve(round_, plan))
        writer.append(commit(writer))
    return writer.offer(-1)


@pytest.fixture
def ledger(tmp_path: Path) -> Offer:
    (tmp_path / "run").mkdir()
    return offer(tmp_path / "run")


def a_place(recipe: Recipe, folder: Path, epsilon: float | None = None, **keys: object) -> tuple[Workplace, Rows]:
    rows = Rows(recipe)
    guard = Guard(Book(folder / "budget", "rows"), policy_of(epsilon, **keys), epsilon_of=gaussian_epsilon)
    return Workplace(rows, guard=guard, heads=Heads(folder / "budget" / "heads")), rows


def book(folder: Path) -> list[tuple[str, str]]:
    return [(entry.what, entry.task) for entry in Book(folder / "budget", "rows").entries()]


def test_a_round_is_paid_for_before_and_its_end_written_down(recipe: Recipe, tmp_path: Path, ledger: Offer) -> None:
    place, _ = a_place(recipe, tmp_path, 100.0)
    update = ask(place, recipe, ledger=ledger)
    assert isinstance(update, Update)
    assert (update.examples, update.metrics) == (1, {})
    assert book(tmp_path) == [("reserve", "train"), ("done", "train")]
    reserved = Book(tmp_path / "budget", "rows").entries()[0]
    assert [(e.noise_multiplier, e.sampling_rate, e.count) for e in reserved.events] == [(1.0, 0.2, 2)]


def test_when_the_budget_is_spent_the_client_says_so_and_takes_cheaper_tasks_again(
    recipe: Recipe, tmp_path: Path, ledger: Offer, caplog: pytest.LogCaptureFixture
) -> None:
    place, _ = a_place(recipe, tmp_path, 1.5)
    with caplog.at_level(logging.WARNING, "fedtune.client"):
        refusal = ask(place, recipe, ledger=ledger)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "budget-spent"
    assert refusal.message == "the data owner's budget has no room for this task: budget.epsilon would be passed"
    assert "ε would come to" in caplog.text
    assert book(tmp_path) == []
    assert place.declined is not None
    assert place.trouble is None
    cheaper = recipe.model_copy(update={"privacy": recipe.privacy.model_copy(update={"noise_multiplier": 50.0})})
    assert isinstance(ask(place, cheaper, ledger=ledger), Update)
    assert place.declined is None


def test_what_a_policy_forbids_is_refused_before_a_model_is_loaded_or_a_row_read(
    recipe: Recipe, tmp_path: Path, ledger: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, rows = a_place(recipe, tmp_path, models=("another",))

    def no_model(*_: object, **__: object) -> None:
        pytest.fail("a model was loaded for a task that is against the policy")

    monkeypatch.setattr("client.work.set_up", no_model)
    refusal = ask(place, recipe, ledger=ledger)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "policy"
    assert "models does not name" in refusal.message
    assert rows.asked == 0
    assert book(tmp_path) == []


def test_a_broken_book_stops_the_work_and_the_coordinator_hears_no_path(
    recipe: Recipe, tmp_path: Path, ledger: Offer
) -> None:
    place, _ = a_place(recipe, tmp_path)
    assert isinstance(ask(place, recipe, ledger=ledger), Update)
    (tmp_path / "budget" / "rows.head").unlink()
    refusal = ask(place, recipe, round_=2, ledger=ledger)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "book-broken"
    assert str(tmp_path) not in refusal.message
    assert place.trouble is not None


def test_a_round_that_fails_stays_spent(
    recipe: Recipe, tmp_path: Path, ledger: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, _ = a_place(recipe, tmp_path)
    monkeypatch.setattr("client.share.Share.update", lambda *_: 1 / 0)
    assert isinstance(ask(place, recipe, ledger=ledger), Refusal)
    assert book(tmp_path) == [("reserve", "train")]


def test_noised_scores_are_paid_for_and_scores_in_the_clear_are_withheld(
    recipe: Recipe, tmp_path: Path, ledger: Offer
) -> None:
    place, _ = a_place(recipe, tmp_path)
    assert isinstance(ask(place, recipe, kind="evaluate", ledger=ledger), Evaluation)
    assert book(tmp_path) == [("reserve", "evaluate"), ("done", "evaluate")]
    withheld = recipe.model_copy(update={"privacy": recipe.privacy.model_copy(update={"metrics": "withheld"})})
    refusal = ask(place, withheld, kind="evaluate", ledger=ledger)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "withheld"


def test_virtual_clients_withhold_too_and_keep_no_book(recipe: Recipe, tmp_path: Path) -> None:
    withheld = recipe.model_copy(update={"privacy": recipe.privacy.model_copy(update={"metrics": "withheld"})})
    place = Workplace(Rows(recipe))
    refusal = ask(place, withheld, kind="evaluate")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "withheld"
    assert isinstance(ask(place, recipe), Update)
    assert not list(tmp_path.glob("budget*"))


def test_gradients_of_private_rows_never_leave_without_noise(recipe: Recipe, tmp_path: Path, ledger: Offer) -> None:
    place, _ = a_place(recipe, tmp_path)
    refusal = ask(place, recipe, kind="gradient", ledger=ledger)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "withheld"


BROKEN = {
    "private gradients": ({"adapter": {"init": "private-gradient"}}, "so no ε would cover the released adapter"),
    "weights by rows": ({"aggregation": {"weights": "examples"}}, "tells how many rows each client has"),
    "control variates": ({"training": {"scaffold": True}}, "which nothing clips or accounts for"),
    "epochs": ({"training": {"steps": None}}, "counting epochs would tell how many rows a client has"),
}


@pytest.mark.parametrize("owner", ["policy", "virtual"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_recipe_that_breaks_a_rule_of_recipes_is_refused_before_anything_is_spent(
    recipe: Recipe, tmp_path: Path, ledger: Offer, monkeypatch: pytest.MonkeyPatch, name: str, owner: str
) -> None:
    """As a coordinator would send it that does not check its own recipe; the next, sound one is worked on."""
    changes, why = BROKEN[name]
    sections = {key: getattr(recipe, key).model_copy(update=values) for key, values in changes.items()}
    place, rows = a_place(recipe, tmp_path) if owner == "policy" else (Workplace(Rows(recipe)), Rows(recipe))
    with monkeypatch.context() as patched:
        patched.setattr("client.work.set_up", lambda *_, **__: pytest.fail("a model was loaded for it"))
        refusal = ask(place, recipe.model_copy(update=sections), ledger=ledger)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "unsound-recipe"
    assert refusal.message.startswith("the recipe breaks a rule that clients hold it to: ")
    assert why in refusal.message
    assert (rows.asked, book(tmp_path), place.trouble) == (0, [], None)
    assert place.declined is not None
    assert isinstance(ask(place, recipe, ledger=ledger), Update)
    assert place.declined is None


def test_under_privacy_a_client_wants_to_see_the_ledger(recipe: Recipe, tmp_path: Path) -> None:
    place, rows = a_place(recipe, tmp_path)
    refusal = ask(place, recipe)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "ledger-broken"
    assert rows.asked == 0


@pytest.mark.parametrize("restarted", [False, True])
def test_a_ledger_that_was_rolled_back_or_forked_is_refused_and_nothing_is_done(
    recipe: Recipe, tmp_path: Path, restarted: bool
) -> None:
    for name in ("run", "fork"):
        (tmp_path / name).mkdir()
    early = offer(tmp_path / "run", 1)
    place, rows = a_place(recipe, tmp_path)
    assert isinstance(ask(place, recipe, ledger=offer(tmp_path / "run", 2)), Update)
    seen, spent = rows.asked, len(book(tmp_path))
    if restarted:
        place, rows = a_place(recipe, tmp_path)
        seen = 0
    for ledger in (early, offer(tmp_path / "fork", 3)):
        refusal = ask(place, recipe, round_=2, ledger=ledger)
        assert isinstance(refusal, Refusal)
        assert refusal.reason == "ledger-broken"
        assert "ledger" in refusal.message
    assert (rows.asked, len(book(tmp_path))) == (seen, spent)
    assert isinstance(ask(place, recipe, round_=3, ledger=offer(tmp_path / "run", 3)), Update)


def test_virtual_clients_follow_a_ledger_that_they_are_shown(recipe: Recipe, tmp_path: Path) -> None:
    for name in ("run", "fork"):
        (tmp_path / name).mkdir()
    place = Workplace(Rows(recipe))
    assert isinstance(ask(place, recipe, ledger=offer(tmp_path / "run", 1)), Update)
    refusal = ask(place, recipe, ledger=offer(tmp_path / "fork", 1))
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "ledger-broken"


def test_without_privacy_a_client_without_a_policy_works_as_ever_and_writes_it_down(
    tiny_bert_folder: Path, tmp_path: Path
) -> None:
    plain = private_recipe(tiny_bert_folder, tmp_path, privacy={})
    guard = Guard(Book(tmp_path / "budget", "rows"))
    place = Workplace(Rows(plain), guard=guard, heads=Heads(tmp_path / "heads"))
    assert isinstance(ask(place, plain), Update)
    assert isinstance(ask(place, plain, kind="evaluate"), Evaluation)
    assert [entry.unit for entry in guard.book.entries()] == ["none"] * 4
