"""The program as a user meets it: help at once, data on stdout, one sentence and an exit code for what goes wrong."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from cli.console import error, guarded, has_colour, table, warn
from cli.main import app
from nanochat.config import ConfigError
from sweeps.spec.errors import LegsFailed, Locked, SweepError

PROGRAM = Path(sys.executable).parent / "nanochat-sweep"


MAX_HELP_CHARS = 65  # --help cuts longer ones at 80 columns


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *words], capture_output=True, text=True, timeout=60)


def raises(problem: BaseException) -> Callable[[], object]:
    def action() -> object:
        raise problem

    return action


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        (["--help"], ("torch", "ray", "pyarrow", "numpy", "jinja2")),
        (["plan", "capacity"], ("torch", "ray", "pyarrow", "numpy")),
    ],
)
def test_help_and_plan_load_nothing_heavy(words: list[str], heavy: tuple[str, ...]) -> None:
    script = (
        f"import sys; from cli.main import app; app({words}, standalone_mode=False); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_version_is_printed() -> None:
    assert call("--version").stdout == "nanochat-sweep 0.1.0\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("plna",), "error: No such command 'plna'."),
        (("plan",), "error: Missing argument 'SWEEP'."),
        (("plan", "capacity", "--blocs", "2"), "error: No such option: --blocs"),
        (("plan", "nothing.py"), "error: no sweep at 'nothing.py' (no such file)"),
        (("plan", "capacity", "--num-workers", "3"), "error: leg moe_fp8_experts_static_cap0p0: "),
    ],
)
def test_a_wrong_command_line_is_one_sentence_and_exit_code_2(words: tuple[str, ...], sentence: str) -> None:
    done = call(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(sentence)
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_is_no_error_message() -> None:
    command = f"{PROGRAM} plan capacity --json | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (SweepError("x"), 2),
        (ConfigError("x"), 2),
        (LegsFailed("x"), 5),
        (Locked("x"), 75),
        (OSError(errno.EROFS, "Read-only file system", "/x/lock"), 2),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 74),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/x"), 2),
        (OSError(errno.EIO, "Input/output error", "/x"), 74),
        (OSError(errno.EIO, "x"), 1),
        (KeyboardInterrupt(), 130),
        (ValueError("x"), 1),
    ],
)
def test_every_ending_has_its_exit_code(problem: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raises(problem)) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert ("Traceback" in printed.err) == (code == 1)
    assert isinstance(problem, KeyboardInterrupt) or "x" in printed.err


def test_no_help_text_is_cut_in_the_list_of_commands() -> None:
    first = {}
    for command in app.registered_commands:
        assert command.callback is not None
        first[command.callback.__name__] = (command.callback.__doc__ or "").split("\n\n")[0].split(". ")[0].strip()
    assert len(first) > 10
    assert {name: text for name, text in first.items() if not text or len(text) > MAX_HELP_CHARS} == {}


def test_a_verbs_number_is_the_exit_code() -> None:
    assert guarded(lambda: 5) == 5
    assert guarded(lambda: None) == 0


def test_a_typer_exit_keeps_its_code() -> None:
    app = typer.Typer()

    @app.command()
    def verb() -> None:  # pyright: ignore[reportUnusedFunction]
        raise typer.Exit(4)

    assert guarded(lambda: app([], standalone_mode=False)) == 4


def test_words_go_to_stderr_without_colour_when_it_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    warn("careful")
    error("broken")
    assert capsys.readouterr().err == "warning: careful\nerror: broken\n"


def test_no_color_wins_over_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    controller, terminal = os.openpty()
    with os.fdopen(terminal, "w") as stream, os.fdopen(controller):
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        assert has_colour(stream)
        monkeypatch.setenv("NO_COLOR", "1")
        assert not has_colour(stream)


def test_a_table_aligns_its_columns() -> None:
    assert table(("leg", "dt"), [("a", "10.5"), ("long", "9")], right=("dt",)) == ("leg     dt\na     10.5\nlong     9")
