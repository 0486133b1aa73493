"""What a shell offers after Tab, asked as bash asks."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.records.experiment import Experiment


@pytest.fixture
def offers(tmp_path: Path, make_experiment: Callable[..., Experiment]) -> Callable[[str], list[str]]:
    """offers("status fi"): the words that bash would show."""
    make_experiment(id="first")
    make_experiment(id="second")

    def ask(line: str) -> list[str]:
        words = f"nanochat-sweep {line}"
        environment = os.environ | {
            "_NANOCHAT_SWEEP_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
            "NANOCHAT_SWEEP_STORAGE": str(tmp_path / "storage"),
        }
        script = "import sys; sys.argv[0] = 'nanochat-sweep'; from cli.main import run; run()"
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.stderr == ""
        return done.stdout.split()

    return ask


def test_verbs_experiments_legs_fields_and_sweeps_are_offered(offers: Callable[[str], list[str]]) -> None:
    assert "handoff" in offers("ha")
    assert offers("status ") == ["first", "second"]
    assert offers("status se") == ["second"]
    assert "static" in offers("logs first st")
    assert "capacity" in offers("plan capac")
    assert offers("plan capacity --set moe.top") == ["moe.top_k="]
    assert "moe_fp8_experts_static_cap1p0" in offers("plan capacity --legs moe_fp8_experts_static_cap1")


def test_nothing_is_offered_and_nothing_fails_where_there_is_nothing(offers: Callable[[str], list[str]]) -> None:
    assert offers("logs nowhere ") == []
    assert offers("plan no/such/folder/") == []
