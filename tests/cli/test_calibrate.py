"""`calibrate` rejects what cannot be before anything is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Program = Callable[..., Any]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("smoke", "--leg", "exct"), "there is no leg 'exct'; did you mean exact?"),
        (("smoke", "--blocks", "0"), "at least 1, got 0"),
        (("smoke", "--blocks", "many"), "--blocks is a number of blocks or 'auto'"),
        (("smoke", "--max-blocks", "2"), "a verdict takes at least 3 blocks"),
        (("smoke", "--inject-pct=-1"), "run.inject_pct must be from 0 to 1,000"),
        (("smoke", "--inject-pct=nan"), "inject_pct"),
        (("nosuch",), "no sweep at 'nosuch'"),
        (("smoke", "--name", "a/b"), "cannot name a folder"),
    ],
)
def test_what_cannot_be_is_rejected_and_leaves_nothing(
    program: Program, tmp_path: Path, words: tuple[str, ...], message: str
):
    done = program("calibrate", *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert not (tmp_path / "storage").exists()
