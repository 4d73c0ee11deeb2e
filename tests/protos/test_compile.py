"""The committed generated code is what the .proto files compile to."""

from pathlib import Path

import pytest

from protos import compile as compiler


def test_the_generated_code_is_fresh(capfd: pytest.CaptureFixture[str]) -> None:
    assert compiler.main(["--check"]) == 0, capfd.readouterr().out


def test_changed_generated_code_is_noticed(tmp_path: Path) -> None:
    generated = compiler.compile_into(tmp_path)
    assert {path.name for path in generated} >= {"link_pb2.py", "link_pb2.pyi", "link_pb2_grpc.py"}
    assert compiler.stale_files(tmp_path, generated) == []
    with (tmp_path / generated[0]).open("a") as file:
        file.write("# changed\n")
    assert compiler.stale_files(tmp_path, generated) == [generated[0]]
