"""Unpacking: the same bytes come out, and nothing leaves the folder or outgrows the bounds."""

import io
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtune.catalogue.unpack import UnsafeArchive, unpack

names = st.lists(st.from_regex(r"[a-z]{1,6}", fullmatch=True), min_size=2, max_size=3).map("/".join)
contents = st.dictionaries(names, st.binary(max_size=200), max_size=6)
escapes = st.sampled_from(["../x", "a/../../x", "/etc/x", "..", "C:/x", "a\\..\\x", "a/b/../../../x"])


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


MAKERS = pytest.mark.parametrize("make", [make_zip, make_tar])


@given(files=contents, zipped=st.booleans())
def test_every_file_comes_out_as_it_went_in(files: dict[str, bytes], zipped: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        archive = (make_zip if zipped else make_tar)(Path(folder) / "archive", files)
        out = Path(folder) / "out"
        out.mkdir()
        unpack(archive, out)
        found = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert found == files


@given(name=escapes, zipped=st.booleans())
def test_a_name_that_leads_out_of_the_folder_is_refused(name: str, zipped: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        archive = (make_zip if zipped else make_tar)(Path(folder) / "archive", {name: b"x"})
        before = sorted(Path(folder).rglob("*"))
        with pytest.raises(UnsafeArchive, match="leads out"):
            unpack(archive, Path(folder))
        assert sorted(Path(folder).rglob("*")) == before


@MAKERS
def test_more_bytes_than_allowed_are_refused(make, tmp_path: Path) -> None:
    archive = make(tmp_path / "archive", {"a/zeros": bytes(3_000_000), "a/more": bytes(2_000_000)})
    assert archive.stat().st_size < 20_000
    with pytest.raises(UnsafeArchive, match="more bytes"):
        unpack(archive, tmp_path / "out", max_bytes=4_000_000)


@MAKERS
def test_more_files_than_allowed_are_refused(make, tmp_path: Path) -> None:
    archive = make(tmp_path / "archive", {f"a/{i}": b"" for i in range(11)})
    with pytest.raises(UnsafeArchive, match="more than 10 files"):
        unpack(archive, tmp_path / "out", max_files=10)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(kind: bytes, tmp_path: Path) -> None:
    path = tmp_path / "archive"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("a/link")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(UnsafeArchive, match="no plain file"):
        unpack(path, tmp_path / "out")


def test_an_archive_that_is_cut_short_is_an_error_not_a_shorter_file(tmp_path: Path) -> None:
    whole = make_tar(tmp_path / "archive", {"a/b": bytes(range(256)) * 400}).read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    with pytest.raises((EOFError, tarfile.TarError)):
        unpack(tmp_path / "cut", tmp_path / "out")
