"""Who is let in, who is not, and what those are told."""

import json
import shutil
import socket
import time
from pathlib import Path

import grpc
import pytest

from client.link import ClientKeys, LinkClient
from client.link.channel import OPTIONS
from fedtune.errors import EnrolmentError, TransportError
from protos.fedtune.v1.link_pb2 import ClientFrame, Hello, ServerFrame
from protos.fedtune.v1.link_pb2_grpc import LinkStub
from protos.limits import PROTOCOL
from server.keys import KeyFolder, ServerKeys
from server.link import CoordinatorLimits, LinkGrid
from tests.link.harness import QUICK, ClientThread, ask, coordinator, echo, eventually, flower_id, payload_of


@pytest.fixture
def own_keys(tmp_path: Path) -> KeyFolder:
    """Keys that a test may change."""
    folder = KeyFolder(tmp_path / "own")
    folder.init([], ["a", "b"])
    return folder


def _first_frame(grid: LinkGrid, keys: KeyFolder, name: str, frame: ClientFrame) -> ServerFrame:
    """What the coordinator answers to this frame."""
    bundle = ClientKeys(keys.bundle(name))
    with grpc.secure_channel(str(grid.address), bundle.grpc(), options=OPTIONS) as channel:
        return next(LinkStub(channel).Connect(iter([frame])))


def _cannot_connect(grid: LinkGrid, credentials: grpc.ChannelCredentials) -> None:
    """No frame ever comes back: TLS has already refused."""
    hello = ClientFrame(hello=Hello(protocol=PROTOCOL, session="s"))
    with grpc.secure_channel(str(grid.address), credentials, options=OPTIONS) as channel, pytest.raises(grpc.RpcError):
        next(LinkStub(channel).Connect(iter([hello])))


def test_a_client_of_another_authority_is_refused(keys: KeyFolder, own_keys: KeyFolder) -> None:
    with coordinator(keys) as grid, ClientThread(grid.address, own_keys, "a") as client:
        error = client.join()
        assert isinstance(error, EnrolmentError)
        assert "another authority signed it" in str(error)
        assert grid.get_node_ids() == []


def test_a_foreign_certificate_with_the_right_authority_file_is_refused(keys: KeyFolder, own_keys: KeyFolder) -> None:
    foreign = own_keys.bundle("a")
    shutil.copy(keys.bundle("a") / "ca.crt", foreign / "ca.crt")
    with pytest.raises(EnrolmentError, match="was not signed by the authority"):
        ClientKeys(foreign)
    # And where the client does not check itself:
    parts = [(foreign / name).read_bytes() for name in ("ca.crt", "client.key", "client.crt")]
    with coordinator(keys) as grid:
        _cannot_connect(grid, grpc.ssl_channel_credentials(*parts))
        assert grid.statuses() == []


def test_without_a_certificate_nobody_comes_in(keys: KeyFolder) -> None:
    ca = (keys.folder / "ca.crt").read_bytes()
    with coordinator(keys) as grid:
        _cannot_connect(grid, grpc.ssl_channel_credentials(ca))
        assert grid.statuses() == []


def test_an_expired_certificate_is_refused_by_both_sides(own_keys: KeyFolder) -> None:
    own_keys.renew("a", days=0)
    with pytest.raises(EnrolmentError, match=r"client.crt expired on 2.*keys renew"):
        ClientKeys(own_keys.bundle("a"))
    parts = [(own_keys.bundle("a") / name).read_bytes() for name in ("ca.crt", "client.key", "client.crt")]
    with coordinator(own_keys) as grid:
        _cannot_connect(grid, grpc.ssl_channel_credentials(*parts))


def test_a_revoked_client_is_refused(own_keys: KeyFolder) -> None:
    own_keys.revoke("a")
    with coordinator(own_keys) as grid, ClientThread(grid.address, own_keys, "a") as client:
        error = client.join()
        assert isinstance(error, EnrolmentError)
        assert "the key of a was revoked" in str(error)


def test_revoking_drops_a_client_that_is_connected(own_keys: KeyFolder) -> None:
    with coordinator(own_keys) as grid, ClientThread(grid.address, own_keys, "a") as client:
        eventually(grid.get_node_ids)
        own_keys.revoke("a")
        start = time.monotonic()
        error = client.join()
        assert time.monotonic() - start < 3 * QUICK.heartbeat_s
        assert "revoked" in str(error)
        eventually(lambda: not grid.get_node_ids())


def test_a_renewed_key_takes_the_old_ones_place(own_keys: KeyFolder, tmp_path: Path) -> None:
    old = shutil.copytree(own_keys.bundle("a"), tmp_path / "old")
    own_keys.renew("a")
    with coordinator(own_keys) as grid:
        with pytest.raises(EnrolmentError, match="not the key that a is enrolled with"):
            LinkClient(str(grid.address), ClientKeys(old), echo).run()
        with ClientThread(grid.address, own_keys, "a"):
            eventually(grid.get_node_ids)


def test_a_signed_certificate_that_is_not_on_the_list_is_refused(own_keys: KeyFolder) -> None:
    document = json.loads(own_keys.enrolment.path.read_text())
    del document["clients"]["a"]
    own_keys.enrolment.path.write_text(json.dumps(document))
    with coordinator(own_keys) as grid, ClientThread(grid.address, own_keys, "a") as client:
        assert "no client named 'a' is enrolled" in str(client.join())


def test_a_client_that_is_added_while_the_coordinator_runs_comes_in(own_keys: KeyFolder) -> None:
    with coordinator(own_keys) as grid:
        own_keys.add("late")
        with ClientThread(grid.address, own_keys, "late"):
            eventually(lambda: grid.get_node_ids() == [flower_id("late")])


def test_with_a_damaged_list_nobody_comes_in_until_it_is_repaired(own_keys: KeyFolder) -> None:
    good = own_keys.enrolment.path.read_bytes()
    with coordinator(own_keys) as grid:
        own_keys.enrolment.path.write_text("{")
        with ClientThread(grid.address, own_keys, "a") as client:
            eventually(lambda: client.told)
            assert "cannot read its list" in client.told[0]
            own_keys.enrolment.path.write_bytes(good)
            eventually(grid.get_node_ids)


def test_under_tls_the_name_in_the_hello_is_not_believed(keys: KeyFolder) -> None:
    with coordinator(keys) as grid:
        answer = _first_frame(grid, keys, "a", ClientFrame(hello=Hello(protocol=PROTOCOL, session="s", name="b")))
        assert (answer.welcome.name, answer.welcome.node_id) == ("a", flower_id("a"))


def test_another_protocol_version_is_told_both_versions(keys: KeyFolder) -> None:
    with coordinator(keys) as grid:
        answer = _first_frame(grid, keys, "a", ClientFrame(hello=Hello(protocol=PROTOCOL + 1, session="s")))
        assert answer.refusal.reason == "protocol"
        assert "speaks version 1 of the link, the client version 2" in answer.refusal.message
        assert not answer.refusal.retryable


def test_the_second_client_with_one_key_takes_over(keys: KeyFolder) -> None:
    with coordinator(keys) as grid, ClientThread(grid.address, keys, "a") as first:
        eventually(grid.get_node_ids)
        with ClientThread(grid.address, keys, "a") as second:
            error = first.join()
            assert isinstance(error, TransportError)
            assert "run one client a key" in str(error)
            (reply,) = grid.send_and_receive(ask(grid, b"abc"), timeout=20)
            assert payload_of(reply) == b"cba"
            assert second.ended is None


def test_when_the_coordinator_is_full_clients_wait(keys: KeyFolder) -> None:
    with coordinator(keys, CoordinatorLimits(max_clients=1, heartbeat_s=0.2)) as grid:
        with ClientThread(grid.address, keys, "a"):
            eventually(grid.get_node_ids)
            second = ClientThread(grid.address, keys, "b")
            eventually(lambda: second.told)
            assert "has its 1 clients" in second.told[0]
        with second:
            eventually(lambda: grid.get_node_ids() == [flower_id("b")])


def test_a_port_in_use_is_one_sentence(keys: KeyFolder) -> None:
    with coordinator(keys) as grid, pytest.raises(TransportError, match=r"is in use; .*another port"):
        LinkGrid(str(grid.address), ServerKeys(keys.folder))
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(TransportError, match="is in use"):
        LinkGrid(f"127.0.0.1:{other.getsockname()[1]}", None)


def test_an_address_of_another_machine_cannot_be_listened_on(keys: KeyFolder) -> None:
    with pytest.raises(TransportError, match="no address of this machine"):
        LinkGrid("192.0.2.1:9443", ServerKeys(keys.folder))


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.168.0.1:9443"])
def test_without_keys_both_sides_keep_to_loopback(address: str) -> None:
    with pytest.raises(TransportError, match="open to other machines"):
        LinkGrid(address, None)
    with pytest.raises(TransportError, match="loopback only"):
        LinkClient(address, None, echo, name="a")


def test_nobody_there_is_told_with_the_address(keys: KeyFolder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
    start = time.monotonic()
    with ClientThread(address, keys, "a", retry_for_s=0.5) as client:
        error = client.join()
    assert isinstance(error, TransportError)
    assert f"no coordinator answers at {address}" in str(error)
    assert 0.5 < time.monotonic() - start < 3
    assert len(client.told) > 2


def test_a_client_started_before_its_coordinator_waits_for_it(keys: KeyFolder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    with ClientThread(f"127.0.0.1:{port}", keys, "a") as client:
        eventually(lambda: client.told)
        with LinkGrid(f"127.0.0.1:{port}", ServerKeys(keys.folder), limits=QUICK) as grid:
            eventually(grid.get_node_ids)


def test_a_proxy_of_the_environment_is_not_used_for_loopback(keys: KeyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    with coordinator(keys) as grid, ClientThread(grid.address, keys, "a"):
        eventually(grid.get_node_ids)


def test_a_client_with_keys_and_a_coordinator_without_say_so(keys: KeyFolder) -> None:
    with coordinator() as grid, ClientThread(grid.address, keys, "a", retry_for_s=0.5) as client:
        assert "does not speak TLS" in str(client.join())


def test_a_client_without_keys_and_a_coordinator_with_say_so(keys: KeyFolder) -> None:
    with coordinator(keys) as grid, ClientThread(grid.address, None, "a", retry_for_s=0.5) as client:
        assert "does it want keys?" in str(client.join())


def test_a_certificate_for_another_host_is_told_apart(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path / "keys")
    folder.init(["coordinator.example.org"], ["a"])
    issued = folder._authority().issue_server(["coordinator.example.org"], 1)
    (folder.folder / "server" / "server.crt").write_bytes(issued.certificate_pem)
    (folder.folder / "server" / "server.key").write_bytes(issued.key_pem)
    with coordinator(folder) as grid, ClientThread(grid.address, folder, "a") as client:
        error = client.join()
        assert isinstance(error, EnrolmentError)
        assert "is not for 127.0.0.1" in str(error)
