"""Keys for the link's tests, made once."""

from pathlib import Path

import pytest

from server.keys import KeyFolder


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyFolder:
    """A key folder with clients a, b and c; tests that change it make their own."""
    folder = KeyFolder(Path(tmp_path_factory.mktemp("link")) / "keys")
    folder.init([], ["a", "b", "c"])
    return folder
