"""What is kept is open to whom the user's umask lets in, and to nobody else."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat.data.cache import built_once
from nanochat.files import write_whole


@pytest.fixture(params=[0o022, 0o027, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_folders_and_files_have_the_modes_that_the_umask_leaves(tmp_path: Path, umask: int) -> None:
    def build(folder: Path) -> None:
        (folder / "shards").mkdir()
        (folder / "shards" / "a").write_text("text")

    root = tmp_path / "cache"
    folder = built_once(root, "corpus", is_whole=lambda place: (place / "shards" / "a").is_file(), build=build)
    write_whole(root / "facts.json", b"{}")
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (root, folder, folder / "shards")}
    assert set(modes.values()) == {0o777 & ~umask}
    files = [folder / "shards" / "a", root / "facts.json"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~umask}
    assert sorted(path.name for path in root.iterdir() if not path.name.endswith(".lock")) == ["corpus", "facts.json"]
