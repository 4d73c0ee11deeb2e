"""The coordinator's books: nothing is spent that was not written down, and nothing beyond the budget."""

import pytest

from fedtune.audit.ledger import read_ledger, spent, verify
from fedtune.errors import LedgerBroken, PrivacyError
from fedtune.privacy.accounting import epsilon_of
from fedtune.privacy.plan import plan_of
from fedtune.recipe import Recipe
from fedtune.runs.folder import RunFolder
from server.bookkeeping import open_books
from server.budget import Budget
from server.select import Draw
from tests.worlds import tiny_recipe

EXAMPLE = {"unit": "example", "delta": 1e-5, "noise_multiplier": 1.5, "sampling_rate": 0.1}
CLIENT = {"unit": "client", "delta": 1e-5, "noise_multiplier": 1.5, "sampling_rate": 0.5, "population": 4}
BANDED = CLIENT | {"mechanism": "banded", "min_separation": 2, "sampling_rate": None}


def recipe_with(folder, privacy, rounds=3, **adapter) -> Recipe:
    return tiny_recipe(
        "model",
        "rows",
        folder,
        privacy=privacy,
        adapter={"rank": 4, **adapter},
        aggregation={"weights": "uniform"},
        training={"steps": 5},
        federation={"rounds": rounds},
    )


def books_of(recipe, *, begun=False):
    """The books of the recipe's run folder, as a process that takes it up finds them."""
    with RunFolder.create(recipe, resume=True) as folder:
        return open_books(folder, model_fingerprint="ab", link="simulation", begun=begun)


def kinds(folder) -> list[str]:
    """What the ledger on the disk says, entry by entry."""
    return [" ".join([e.kind, getattr(e.body, "what", "")]).strip() for e in read_ledger(folder / "run").entries]


def train(books, round_, names=("a", "b"), draw=None):
    with books.charge("train", round_) as charge:
        charge.reserve(names, draw)
        charge.commit(dict.fromkeys(names, "ok"), "cd" * 32)


def test_a_run_without_a_unit_keeps_no_books(tmp_path):
    books = books_of(recipe_with(tmp_path, {}))
    train(books, 1)
    books.meet(5)
    books.close(1, "")
    assert books.offer(-1) is None
    assert books.affordable("train", ["a"]) == ["a"]
    assert not list((tmp_path / "run").glob("ledger*"))


def test_a_charge_is_on_the_disk_before_anything_can_be_sent(tmp_path):
    books = books_of(recipe_with(tmp_path, EXAMPLE))
    with books.charge("train", 1) as charge:
        assert kinds(tmp_path) == ["open"]
        charge.reserve(["a", "b"])
        assert kinds(tmp_path)[-1] == "reserve train"
        charge.commit({"a": "ok", "b": "late"}, "cd" * 32)
        assert kinds(tmp_path)[-1] == "commit train"
    books.close(1, "")
    books.close(1, "")
    assert kinds(tmp_path) == ["open", "reserve train", "commit train", "close"]
    ledger = read_ledger(tmp_path / "run")
    assert sorted(ledger.entries[2].body.outcomes.values()) == ["late", "ok"]
    assert ledger.opened.versions["torch"]
    verify(ledger)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(None, "too-few-replies"), (PrivacyError("x"), "privacy-error"), (KeyboardInterrupt(), "stopped")],
)
def test_what_is_not_committed_is_aborted_and_spent(tmp_path, error, reason):
    books = books_of(recipe_with(tmp_path, EXAMPLE))

    def fail():
        with books.charge("train", 1) as charge:
            charge.reserve(["a"])
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            fail()
    else:
        fail()
    ledger = read_ledger(tmp_path / "run")
    assert ledger.entries[-1].body.reason == reason
    assert sum(e.count for e in spent(ledger).histories()[-1]) == 5


def test_a_charge_that_reserves_nothing_writes_nothing(tmp_path):
    with books_of(recipe_with(tmp_path, EXAMPLE)).charge("train", 1):
        pass
    assert kinds(tmp_path) == ["open"]


def test_what_was_open_when_the_process_died_is_aborted_by_the_next_one(tmp_path):
    recipe = recipe_with(tmp_path, EXAMPLE)
    books_of(recipe).charge("train", 1).reserve(["a"])
    assert kinds(tmp_path)[-1] == "reserve train"
    again = books_of(recipe)
    assert read_ledger(tmp_path / "run").entries[-1].body.reason == "interrupted"
    train(again, 1, ["a"])
    (everything,) = set(spent(read_ledger(tmp_path / "run")).histories()) - {()}
    assert sum(e.count for e in everything) == 10


def test_pseudonyms_are_the_same_after_a_restart(tmp_path):
    recipe = recipe_with(tmp_path, EXAMPLE)
    train(books_of(recipe), 1, ["a", "b"])
    train(books_of(recipe), 2, ["b"])
    sums = spent(read_ledger(tmp_path / "run"))
    assert sorted(sum(e.count for e in sums.of(name)) for name in sums.names) == [5, 10]


def test_the_release_of_a_whole_run_is_charged_once_however_often_it_is_taken_up(tmp_path):
    recipe = recipe_with(tmp_path, BANDED)
    books = books_of(recipe)
    assert kinds(tmp_path) == ["open", "reserve run", "commit run"]
    path = tmp_path / "run" / "ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    books = books_of(recipe)
    assert kinds(tmp_path) == ["open", "reserve run", "commit run"]
    train(books, 1, ["a"], Draw(("a",), None, 4, None, 4))
    books_of(recipe)
    assert kinds(tmp_path).count("reserve run") == 1
    assert spent(read_ledger(tmp_path / "run")).everyone == plan_of(recipe).run_events


def test_under_client_level_privacy_nobody_is_named(tmp_path):
    recipe = recipe_with(tmp_path, CLIENT)
    train(books_of(recipe), 1, ["a", "b"], Draw(("a", "b"), None, 4, 0.5, 4))
    ledger = read_ledger(tmp_path / "run")
    reserved, committed = ledger.entries[1].body, ledger.entries[2].body
    assert reserved.participants == ()
    assert reserved.drawn.asked == ()
    assert committed.outcomes == {}
    assert (reserved.drawn.population, reserved.drawn.sampling_rate) == (4, 0.5)
    assert spent(ledger).everyone == plan_of(recipe).round_events


def test_the_planned_rounds_need_no_accountant(tmp_path, monkeypatch):
    """Thousands of rounds are not accounted thousands of times."""
    recipe = recipe_with(tmp_path, EXAMPLE | {"epsilon": 50.0}, rounds=40)

    def never(*_):
        raise AssertionError("the accountant was asked")

    monkeypatch.setattr("fedtune.privacy.accounting.epsilon_of", never)
    books = books_of(recipe)
    for round_ in range(1, 41):
        assert books.affordable("train", ["a"]) == ["a"]
        train(books, round_, ["a"])
    with pytest.raises(AssertionError, match="was asked"):
        books.affordable("train", ["a"])


def test_the_budget_ends_where_the_accountant_says(tmp_path):
    """Beyond the plan, which crashes make a run pass, exactly as many rounds as ε allows."""
    plan = plan_of(recipe_with(tmp_path, EXAMPLE))
    (event,) = plan.round_events
    limit = epsilon_of([event.times(7)], plan.delta) * 1.0001
    budget = Budget(plan, limit)
    allowed = [n for n in range(12) if budget.allows([event.times(n)] if n else [], [event])]
    assert allowed == [n for n in range(12) if epsilon_of([event.times(n + 1)], plan.delta) <= limit] == list(range(7))
    assert Budget(plan, None).allows([event.times(10**6)], [event])


def test_a_client_whose_budget_is_spent_is_not_asked_and_the_others_are(tmp_path):
    recipe = recipe_with(tmp_path, EXAMPLE, rounds=2)
    epsilon = epsilon_of(plan_of(recipe).planned(), 1e-5)
    books = books_of(recipe_with(tmp_path, EXAMPLE | {"epsilon": epsilon}, rounds=2))
    train(books, 1, ["a", "b"])
    train(books, 2, ["a"])
    assert books.affordable("train", ["a", "b", "c"]) == ["b", "c"]
    with pytest.raises(PrivacyError, match=r"more than privacy\.epsilon"):
        train(books, 2, ["a", "b"])
    assert kinds(tmp_path)[-1] == "commit train", "what is refused is not written"


def test_hidden_clients_are_asked_together_or_not_at_all(tmp_path):
    recipe = recipe_with(tmp_path, CLIENT, rounds=1)
    epsilon = epsilon_of(plan_of(recipe).planned(), 1e-5)
    books = books_of(recipe_with(tmp_path, CLIENT | {"epsilon": epsilon}, rounds=1))
    assert books.affordable("train", ["a", "b"]) == ["a", "b"]
    train(books, 1, ["a"], Draw(("a",), None, 2, 0.5, 4))
    assert books.affordable("train", ["a", "b"]) == []


def test_nobody_is_never_charged_by_name(tmp_path):
    """No participants means everybody, so where each pays for itself an empty reservation is refused."""
    with pytest.raises(PrivacyError, match="no client is there"):
        books_of(recipe_with(tmp_path, EXAMPLE)).charge("train", 1).reserve([])


def test_a_run_that_is_further_than_its_ledger_is_refused(tmp_path):
    """A ledger restored from an old copy forgets what was spent."""
    recipe = recipe_with(tmp_path, EXAMPLE)
    books = books_of(recipe)
    train(books, 1)
    books.meet(1)
    with pytest.raises(LedgerBroken, match="rolled back"):
        books.meet(2)


def test_a_run_whose_ledger_or_secret_is_gone_is_refused(tmp_path):
    recipe = recipe_with(tmp_path, EXAMPLE)
    books_of(recipe)
    (tmp_path / "run" / "ledger.secret").rename(tmp_path / "secret")
    with pytest.raises(LedgerBroken, match=r"ledger\.secret is missing"):
        books_of(recipe, begun=True)
    (tmp_path / "run" / "ledger.jsonl").unlink()
    with pytest.raises(LedgerBroken, match=r"ledger\.jsonl is missing"):
        books_of(recipe, begun=True)


def test_the_ledger_of_another_run_is_refused(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    books_of(recipe_with(here, EXAMPLE))
    books_of(recipe_with(there, EXAMPLE))
    for name in ("ledger.jsonl", "ledger.key", "ledger.secret"):
        (here / "run" / name).write_bytes((there / "run" / name).read_bytes())
    with pytest.raises(LedgerBroken, match="of another run"):
        books_of(recipe_with(here, EXAMPLE), begun=True)


def test_a_run_goes_on_with_another_length_but_not_with_another_plan(tmp_path):
    books_of(recipe_with(tmp_path, EXAMPLE, rounds=3))
    books_of(recipe_with(tmp_path, EXAMPLE, rounds=5))
    with RunFolder.create(recipe_with(tmp_path, EXAMPLE), resume=True) as folder:
        folder.recipe = recipe_with(tmp_path, EXAMPLE | {"noise_multiplier": 0.5})
        with pytest.raises(PrivacyError, match=r"another privacy plan \(noise_multiplier, round_events\)"):
            open_books(folder, model_fingerprint="ab", link="", begun=True)
