"""A file that cannot be written whole leaves the one before."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat.files import write_whole


@pytest.fixture
def files_of_100_bytes() -> Iterator[None]:
    """No file of this process can grow further, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_does_not_fit_leaves_the_one_before_and_nothing_else(tmp_path: Path, files_of_100_bytes: None):
    path = tmp_path / "facts.json"
    write_whole(path, b"old")
    write_whole(path, b"new")
    with pytest.raises(OSError, match="File too large"):
        write_whole(path, b"x" * 101)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
