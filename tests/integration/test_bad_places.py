"""Ports, certificates, disks and files that are not as they should be: one sentence and an exit code, nothing lost."""

import os
import resource
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from fedtune.recipe.dump import dump
from fedtune.runs.folder import RunFolder
from server.keys import KeyFolder, ServerKeys
from server.link import LinkGrid
from simulations.simulate import simulate
from tests.integration.conftest import only_sentence
from tests.integration.processes import SCRIPT, Federation, free_port
from tests.worlds import tiny_recipe, write_rows

pytestmark = pytest.mark.processes


@pytest.fixture
def keys(tmp_path):
    made = KeyFolder(tmp_path / "keys")
    made.init([], ["ada", "bob"])
    return made


@pytest.fixture
def rows(tmp_path):
    return write_rows(tmp_path / "rows.jsonl", 40)


@pytest.fixture
def listening(keys):
    """The address of a coordinator that lets its clients in and asks them nothing."""
    with LinkGrid("127.0.0.1:0", ServerKeys(keys.folder)) as grid:
        yield str(grid.address)


def join(address, keys, rows, *more):
    return ["client", "--coordinator", address, "--keys", keys, "--data", rows, *more]


def test_an_expired_certificate(fails, keys, listening, rows):
    keys.renew("ada", days=0)
    assert "expired" in fails(*join(listening, keys.bundle("ada"), rows))


def test_a_certificate_of_another_authority(fails, listening, rows, tmp_path):
    other = KeyFolder(tmp_path / "other")
    other.init([], ["ada"])
    assert "another authority signed it" in fails(*join(listening, other.bundle("ada"), rows))


def test_a_revoked_client(fails, keys, listening, rows):
    keys.revoke("ada")
    assert "the key of ada was revoked" in fails(*join(listening, keys.bundle("ada"), rows))


def test_a_bundle_that_is_not_there_or_not_whole(fails, keys, rows, tmp_path):
    assert "missing" in fails(*join("127.0.0.1:1", tmp_path / "nowhere", rows))
    (keys.bundle("ada") / "client.key").write_text("no key")
    assert "its key or ca.crt is damaged" in fails(*join("127.0.0.1:1", keys.bundle("ada"), rows))


def test_a_coordinator_that_is_not_there(fails, keys, rows):
    start = time.monotonic()
    address = f"127.0.0.1:{free_port()}"
    assert f"no coordinator answers at {address}" in fails(
        *join(address, keys.bundle("ada"), rows, "--retry-for", "0.3")
    )
    assert time.monotonic() - start < 20


def test_a_coordinator_that_speaks_another_protocol(fails, keys, rows):
    with LinkGrid("127.0.0.1:0", None) as plain:
        assert "TLS" in fails(*join(str(plain.address), keys.bundle("ada"), rows, "--retry-for", "0.3"))


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "is empty"), (b"caf\xe9", "UTF-8"), (b"{", "malformed JSON")],
    ids=["empty", "mixed encodings", "malformed"],
)
def test_a_file_that_cannot_be_read_is_told_before_anybody_is_asked(fails, keys, tmp_path, content, said):
    (tmp_path / "mine.jsonl").write_bytes(content)
    assert said in fails(*join("127.0.0.1:1", keys.bundle("ada"), tmp_path / "mine.jsonl"))
    assert "does not exist" in fails(*join("127.0.0.1:1", keys.bundle("ada"), tmp_path / "yours.jsonl"))


def test_a_port_in_use(fails, keys, rows, tiny_bert_folder, tmp_path):
    (tmp_path / "recipe.toml").write_text(dump(tiny_recipe(tiny_bert_folder, rows, tmp_path / "runs")))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert "in use" in fails("coordinator", tmp_path / "recipe.toml", "--keys", keys.folder, "--port", port)
    assert not (tmp_path / "runs").exists()


def test_keys_are_never_overwritten(fails, keys):
    before = (keys.folder / "ca.key").read_bytes()
    assert "has keys already" in fails("keys", "init", keys.folder)
    assert "is enrolled already" in fails("keys", "add", "ada", "--keys", keys.folder)
    assert (keys.folder / "ca.key").read_bytes() == before


def test_the_installed_program_says_it_the_same_way(tmp_path):
    """As a user runs it; everything else here runs the same code in this process."""
    done = subprocess.run(
        [SCRIPT, "client", "--coordinator", "127.0.0.1:1", "--data", "nowhere.csv", "--insecure", "--name", "ada"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "nowhere.csv does not exist" in only_sentence(done.stderr)


def test_a_client_whose_file_lacks_a_column_is_left_out_and_ends_with_the_reason(tiny_bert_folder, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", 40)
    recipe = tiny_recipe(
        tiny_bert_folder,
        rows,
        tmp_path,
        data={"source": str(rows), "test_fraction": 0.25, "partition": {"clients": 2}},
        federation={"rounds": 2, "min_clients": 2},
    )
    with Federation(recipe, tmp_path / "world") as world:
        world.make_keys()
        other = world.rows["client-0"]
        other.write_text(other.read_text().replace('"text"', '"txt"'))
        coordinator, wrong, right = world.coordinator(), *world.clients()
        assert (coordinator.wait(), wrong.wait(), right.wait()) == (0, 1, 0)
        assert [c.outcome for c in world.run.rounds()[-1].clients] == ["no-data", "ok"]
        assert 'no column "text"; did you mean "txt"?' in only_sentence(wrong.log.read_text())
        assert "txt" not in world.run.rounds()[-1].clients[0].detail


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 4 MiB; skipped where this process may not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def free_bytes(disk):
    state = os.statvfs(disk)
    return state.f_bavail * state.f_frsize


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(fails, fedtune, small_disk, rows, tiny_bert_folder, tmp_path):
    """Filled so far that a round, a checkpoint, or only the pictures at the end do not fit."""
    recipe = tiny_recipe(tiny_bert_folder, rows, small_disk, federation={"rounds": 4})
    (tmp_path / "recipe.toml").write_text(dump(recipe))
    whole = simulate(recipe.model_copy(update={"run": recipe.run.model_copy(update={"folder": str(tmp_path)})}))
    run, ballast = small_disk / "run", small_disk / "ballast"
    for room in (4 << 10, 60 << 10, 120 << 10):
        shutil.rmtree(run, ignore_errors=True)
        ballast.unlink(missing_ok=True)
        ballast.write_bytes(bytes(free_bytes(small_disk) - room))
        assert "full" in fails("simulate", tmp_path / "recipe.toml")
        ballast.unlink()
        assert fedtune("simulate", tmp_path / "recipe.toml", "--resume").exit_code == 0
        again, untouched = RunFolder.open(run), RunFolder.open(whole)
        assert again.status == "finished"
        assert [r.state_digest for r in again.rounds()] == [r.state_digest for r in untouched.rounds()]


def test_clients_wait_while_the_coordinators_disk_is_full(small_disk, rows, tiny_bert_folder, tmp_path):
    data = {"source": str(rows), "test_fraction": 0.25, "partition": {"clients": 2}}
    federation = {"rounds": 3, "min_clients": 2, "min_replies": 2}
    recipe = tiny_recipe(tiny_bert_folder, rows, small_disk, data=data, federation=federation)
    with Federation(recipe, tmp_path / "world") as world:
        world.make_keys()
        (small_disk / "ballast").write_bytes(bytes(free_bytes(small_disk) - (40 << 10)))
        stopped, clients = world.coordinator(), world.clients()
        assert stopped.wait() == 1
        assert "full" in only_sentence(stopped.log.read_text())
        (small_disk / "ballast").unlink()
        goes_on = world.coordinator("--resume")
        assert [process.wait() for process in (goes_on, *clients)] == [0] * 3
        assert [r.round for r in world.run.rounds()] == [0, 1, 2, 3]


@pytest.mark.parametrize("limit", [2 << 10, 16 << 10])
def test_a_file_that_may_not_grow(fails, fedtune, rows, tiny_bert_folder, tmp_path, limit):
    (tmp_path / "recipe.toml").write_text(dump(tiny_recipe(tiny_bert_folder, rows, tmp_path, federation={"rounds": 4})))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        said = fails("simulate", tmp_path / "recipe.toml")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "size limit" in said or "File too large" in said
    assert fedtune("simulate", tmp_path / "recipe.toml", "--resume").exit_code == 0
    assert RunFolder.open(Path(tmp_path / "run")).status == "finished"
