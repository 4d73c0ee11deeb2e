"""The key folder: what it holds, who may read it, and what cannot be undone by accident."""

import json
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.link import ClientKeys
from fedtune.errors import EnrolmentError, TransportError
from server.keys import Enrolment, KeyFolder, ServerKeys
from server.keys.enrolment import Enrolled, NotEnrolled


@pytest.fixture
def folder(tmp_path: Path) -> KeyFolder:
    made = KeyFolder(tmp_path / "keys")
    made.init(["fl.example.org", "10.1.2.3"], ["hospital-a"])
    return made


def _certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_the_layout_and_its_rights(folder: KeyFolder) -> None:
    files = {str(path.relative_to(folder.folder)): path for path in folder.folder.rglob("*") if path.is_file()}
    assert sorted(files) == [
        ".lock",
        "ca.crt",
        "ca.key",
        "clients/hospital-a/ca.crt",
        "clients/hospital-a/client.crt",
        "clients/hospital-a/client.key",
        "enrolled.json",
        "server/server.crt",
        "server/server.key",
    ]
    for name, path in files.items():
        if name.endswith(".key"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, name
    for path in [folder.folder, *(p for p in folder.folder.rglob("*") if p.is_dir())]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path


def test_openssl_verifies_what_was_made_for_its_own_purpose_only(folder: KeyFolder) -> None:
    server, client = folder.folder / "server/server.crt", folder.bundle("hospital-a") / "client.crt"

    def verifies(path: Path, purpose: str) -> bool:
        command = ["openssl", "verify", "-CAfile", folder.folder / "ca.crt", "-purpose", purpose, path]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    assert verifies(server, "sslserver")
    assert verifies(client, "sslclient")
    assert not verifies(client, "sslserver")
    assert not verifies(server, "sslclient")


def test_the_coordinators_certificate_names_its_hosts_and_loopback(folder: KeyFolder) -> None:
    certificate = _certificate(folder.folder / "server/server.crt")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fl.example.org", "localhost"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["10.1.2.3", "127.0.0.1", "::1"]


def test_a_client_can_sign_nobody(folder: KeyFolder) -> None:
    certificate = _certificate(folder.bundle("hospital-a") / "client.crt")
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_an_authority_is_never_overwritten(folder: KeyFolder) -> None:
    before = {path: path.read_bytes() for path in folder.folder.rglob("*") if path.is_file()}
    with pytest.raises(EnrolmentError, match="has keys already"):
        folder.init([], ["other"])
    assert {path: path.read_bytes() for path in folder.folder.rglob("*") if path.is_file()} == before


def test_add_revoke_and_add_again(folder: KeyFolder) -> None:
    folder.add("b")
    first = _certificate(folder.bundle("b") / "client.crt")
    assert folder.enrolment.admit(first) == "b"
    with pytest.raises(EnrolmentError, match="b is enrolled already"):
        folder.add("b")
    folder.revoke("b")
    with pytest.raises(NotEnrolled, match="revoked") as caught:
        folder.enrolment.admit(first)
    assert caught.value.why == "revoked"
    with pytest.raises(EnrolmentError, match="keys add b"):
        folder.renew("b")
    folder.add("b")
    assert folder.enrolment.admit(_certificate(folder.bundle("b") / "client.crt")) == "b"
    with pytest.raises(NotEnrolled, match="not the key that b is enrolled with"):
        folder.enrolment.admit(first)


def test_unknown_names_are_told_the_known_ones(folder: KeyFolder) -> None:
    with pytest.raises(EnrolmentError, match="no client named 'x' is enrolled; enrolled: hospital-a"):
        folder.revoke("x")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 64, "ä"])
def test_names_that_are_no_file_names_are_refused_before_anything_is_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(TransportError, match="no client name"):
        KeyFolder(tmp_path / "keys").init([], ["good", name])
    assert not (tmp_path / "keys").exists()


def test_a_host_that_is_none_is_refused_and_leaves_no_authority(tmp_path: Path) -> None:
    with pytest.raises(EnrolmentError, match="no host name"):
        KeyFolder(tmp_path / "keys").init(["a" * 300], ["a"])
    assert not (tmp_path / "keys" / "ca.key").exists()


def test_two_commands_at_once_lose_no_client(folder: KeyFolder) -> None:
    threads = [threading.Thread(target=KeyFolder(folder.folder).add, args=(f"c{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folder.enrolment.entries()) == 9


def test_the_list_is_read_again_when_it_changes(folder: KeyFolder) -> None:
    other = Enrolment(folder.enrolment.path)
    assert set(other.entries()) == {"hospital-a"}
    folder.add("b")
    assert set(other.entries()) == {"hospital-a", "b"}
    folder.enrolment.path.unlink()
    with pytest.raises(EnrolmentError, match="is missing"):
        other.entries()


@pytest.mark.parametrize(
    "damaged",
    ["", "[]", "{}", '{"version": 1}', '{"version": 1, "clients": {"a": {}}}', '{"version": 1, "clients": []}'],
)
def test_a_damaged_list_lets_nobody_in(folder: KeyFolder, damaged: str) -> None:
    certificate = _certificate(folder.bundle("hospital-a") / "client.crt")
    folder.enrolment.path.write_text(damaged)
    with pytest.raises(EnrolmentError, match="nobody is let in"):
        folder.enrolment.admit(certificate)


def test_a_revoked_flag_that_is_no_flag_is_damage(folder: KeyFolder) -> None:
    document = json.loads(folder.enrolment.path.read_text())
    document["clients"]["hospital-a"]["revoked"] = "no"
    folder.enrolment.path.write_text(json.dumps(document))
    with pytest.raises(EnrolmentError, match="nobody is let in"):
        folder.enrolment.entries()


_ENTRIES = st.dictionaries(
    st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,20}\Z"),
    st.builds(
        Enrolled,
        fingerprint=st.binary(min_size=32, max_size=32).map(bytes.hex),
        expires=st.datetimes().map(lambda moment: moment.isoformat()),
        revoked=st.booleans(),
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(_ENTRIES)
def test_the_list_reads_back_as_it_was_saved(tmp_path: Path, entries: dict[str, Enrolled]) -> None:
    Enrolment(tmp_path / "enrolled.json").save(entries)
    assert Enrolment(tmp_path / "enrolled.json").entries() == entries


def test_a_coordinator_needs_no_authority_key(folder: KeyFolder) -> None:
    (folder.folder / "ca.key").unlink()
    ServerKeys(folder.folder).grpc()


@pytest.mark.parametrize("missing", ["ca.crt", "server/server.crt", "server/server.key", "enrolled.json"])
def test_a_missing_file_is_named(folder: KeyFolder, missing: str) -> None:
    (folder.folder / missing).unlink()
    with pytest.raises(EnrolmentError, match=f"{missing} is missing"):
        ServerKeys(folder.folder)


def test_damaged_mixed_and_expired_coordinator_keys_are_told_apart(folder: KeyFolder, tmp_path: Path) -> None:
    other = KeyFolder(tmp_path / "other")
    other.init([], [])
    server = folder.folder / "server"
    good = (server / "server.key").read_bytes()
    for key, says in ((b"-----", "damaged"), ((other.folder / "server/server.key").read_bytes(), "is not its key")):
        (server / "server.key").write_bytes(key)
        with pytest.raises(EnrolmentError, match=says):
            ServerKeys(folder.folder)
    (server / "server.key").write_bytes(good)
    folder.renew_server([], days=0)
    with pytest.raises(EnrolmentError, match="expired on"):
        ServerKeys(folder.folder)


def test_a_mixed_up_authority_signs_nothing(folder: KeyFolder, tmp_path: Path) -> None:
    other = KeyFolder(tmp_path / "other")
    other.init([], [])
    (folder.folder / "ca.key").write_bytes((other.folder / "ca.key").read_bytes())
    with pytest.raises(EnrolmentError, match=r"ca\.key is not the key"):
        folder.add("b")
    assert set(folder.enrolment.entries()) == {"hospital-a"}


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnrolmentError, match="cannot make the folder"):
        KeyFolder(tmp_path / "file" / "keys").init([], [])


@pytest.mark.parametrize("name", ["ca.crt", "client.crt", "client.key"])
def test_a_bundle_that_lacks_a_file_says_which(folder: KeyFolder, name: str) -> None:
    (folder.bundle("hospital-a") / name).unlink()
    with pytest.raises(EnrolmentError, match=f"{name} is missing"):
        ClientKeys(folder.bundle("hospital-a"))


def test_a_bundle_whose_key_others_can_read_is_warned_about(
    folder: KeyFolder, caplog: pytest.LogCaptureFixture
) -> None:
    key = folder.bundle("hospital-a") / "client.key"
    key.chmod(0o644)
    assert ClientKeys(folder.bundle("hospital-a")).name == "hospital-a"
    assert f"chmod 600 {key}" in caplog.text
