"""The program without the price of a new process: the same entry, in this one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.console import guarded
from cli.main import app


@dataclass(frozen=True)
class Done:
    """How a call of the program ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def program(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """program("ls", "--json"): runs a verb over the experiments in tmp_path/storage."""
    monkeypatch.setenv("NANOCHAT_SWEEP_STORAGE", str(tmp_path / "storage"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def run(*words: str | Path) -> Done:
        capfd.readouterr()
        code = guarded(lambda: app([str(word) for word in words], standalone_mode=False))
        printed = capfd.readouterr()
        return Done(code, printed.out, printed.err)

    return run
