"""Temporary folders of a rank are found again by its process id."""

import os
import tempfile
from pathlib import Path

import pytest

from sweeps.engine.processes.scratch import new_folder, remove_left


def test_what_a_rank_left_is_removed_and_another_ranks_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = new_folder()
    (folder / "rank_0.pt").write_text("a checkpoint")
    remove_left(tmp_path, os.getpid() + 1)
    assert folder.exists()
    remove_left(tmp_path, os.getpid())
    assert list(tmp_path.iterdir()) == []
