"""Addresses and names as users write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtune.errors import TransportError
from protos.address import Address, parse_address
from protos.limits import LinkLimits
from protos.names import check_name, node_id


@pytest.mark.parametrize("text", ["localhost:9443", "[::1]:1", "10.0.0.1:65535", "a.example.org:0"])
def test_an_address_reads_back_as_it_was_written(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize("text", ["", "localhost", ":9", "::1:9", "a:65536", "a:-1", "http://a:9", "a b:9", "a:9\n9"])
def test_what_is_no_address_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(TransportError, match="write host:port"):
        parse_address(text)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("::", False),
        ("localhost.example", False),
    ],
)
def test_loopback_is_told_from_the_written_host(host: str, loopback: bool) -> None:
    assert Address(host, 1).is_loopback is loopback


@given(st.text(max_size=80))
def test_a_name_is_safe_as_a_file_name_or_refused(name: str) -> None:
    try:
        check_name(name)
    except TransportError:
        return
    assert name.isascii()
    assert not set(name) & set("/\\ \n\0")
    assert name not in {".", ".."}
    assert 1 <= len(name) <= 63


def test_node_ids_are_stable_and_fit_flowers_signed_64_bits() -> None:
    assert node_id("hospital-a") == node_id("hospital-a") == 3416242247705750434
    assert all(2 <= node_id(f"client-{i}") < 2**63 for i in range(1000))
    assert len({node_id(f"client-{i}") for i in range(1000)}) == 1000


@pytest.mark.parametrize(
    "wrong", [{"heartbeat_s": 0}, {"chunk_bytes": 0}, {"chunk_bytes": 1 << 30}, {"window_bytes": 1}, {"max_faults": 0}]
)
def test_limits_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(TransportError, match=next(iter(wrong))):
        LinkLimits(**wrong)  # type: ignore[arg-type]
