"""Temporary folders of a rank are found again by its process."""

import os
import tempfile
from pathlib import Path

import pytest

from sweeps.engine.processes.scratch import new_folder, remove_left
from sweeps.records.owner import process_started


def test_what_a_rank_left_is_removed_once_it_is_gone_and_another_ranks_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder, kept = new_folder(), tmp_path / "kept"
    (folder / "rank_0.pt").write_text("a checkpoint")
    kept.mkdir()
    (folder / "link").symlink_to(kept)
    pid, started = os.getpid(), process_started(os.getpid())
    remove_left(pid, started)  # it lives
    remove_left(pid + 1, started)
    assert folder.exists()
    of_the_dead = tmp_path / folder.name.replace(f"-{started}-", "-1-")
    folder.rename(of_the_dead)
    (tmp_path / f"{of_the_dead.name}b").symlink_to(kept)
    remove_left(pid, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", f"{of_the_dead.name}b"]
