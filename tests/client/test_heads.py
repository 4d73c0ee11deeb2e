"""The heads that a client keeps: a ledger only ever goes on, for each run and client, and survives a restart."""

import stat
from pathlib import Path

import pytest

from client.heads import Heads
from fedtune.audit.ledger import LedgerWriter, Offer
from fedtune.errors import LedgerBroken, PrivacyError
from fedtune.privacy.plan import plan_of
from tests.audit.ledger_examples import commit, opening, private_recipe, reserve


@pytest.fixture
def offers(tmp_path: Path) -> list[Offer]:
    """What a coordinator shows after entries 0, 2 and 4."""
    (tmp_path / "run").mkdir()
    writer, recipe, found = LedgerWriter.of(tmp_path / "run"), private_recipe(), []
    plan = plan_of(recipe)
    assert plan is not None
    writer.append(opening(writer, recipe))
    found.append(writer.offer(-1))
    for round_ in (1, 2):
        writer.append(reserve(round_, plan))
        writer.append(commit(writer))
        found.append(writer.offer(-1))
    return found


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_ledger_may_stand_still_and_go_on_and_never_back(
    tmp_path: Path, offers: list[Offer], in_memory: bool
) -> None:
    heads = Heads(None if in_memory else tmp_path / "heads")
    for at in (0, 1, 1, 2):
        heads.follow("run", "me", offers[at])
    with pytest.raises(LedgerBroken, match="rolled back"):
        heads.follow("run", "me", offers[1])
    heads.follow("run", "me", offers[2])


def test_runs_and_clients_are_kept_apart(tmp_path: Path, offers: list[Offer]) -> None:
    heads = Heads(tmp_path / "heads")
    heads.follow("run", "me", offers[2])
    heads.follow("run", "you", offers[0])
    heads.follow("another", "me", offers[0])
    heads.follow("ru", "nme", offers[0])


def test_a_head_survives_a_restart_in_a_file_for_its_owner_alone(tmp_path: Path, offers: list[Offer]) -> None:
    Heads(tmp_path / "heads").follow("run", "me", offers[1])
    again = Heads(tmp_path / "heads")
    with pytest.raises(LedgerBroken, match="rolled back"):
        again.follow("run", "me", offers[0])
    assert stat.S_IMODE((tmp_path / "heads").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "heads").iterdir()} == {0o600}


@pytest.mark.parametrize("run", ["..", "../../etc", "a/b", "\0", "x" * 256])
def test_a_coordinator_cannot_name_a_path(tmp_path: Path, offers: list[Offer], run: str) -> None:
    heads = Heads(tmp_path / "deep" / "heads")
    heads.follow(run, "me", offers[0])
    assert heads.path_of(run, "me").resolve().parent == (tmp_path / "deep" / "heads").resolve()
    assert {path.name for path in tmp_path.iterdir()} == {"deep", "run"}


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff"])
def test_a_damaged_head_is_no_first_contact(tmp_path: Path, offers: list[Offer], content: bytes) -> None:
    heads = Heads(tmp_path / "heads")
    heads.follow("run", "me", offers[0])
    heads.path_of("run", "me").write_bytes(content)
    with pytest.raises(PrivacyError, match="is damaged") as caught:
        heads.follow("run", "me", offers[1])
    assert not isinstance(caught.value, LedgerBroken)  # its words name a path, and are not for the coordinator


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path, offers: list[Offer]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PrivacyError, match="cannot be used"):
        Heads(tmp_path / "file").follow("run", "me", offers[0])
