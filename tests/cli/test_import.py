"""`import`: from a folder of logs to a report, and what is said of lines that could not be used."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.foreign_logs import log_lines, write_log

Program = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    logs = tmp_path / "old logs"
    write_log(logs, "exact", log_lines(dt_ms=1120), capacity="0.0")
    write_log(logs, "capped", log_lines(dt_ms=670), capacity="1.0")
    write_log(logs, "nameless", [*log_lines(), "step 00007/00120 (5.83%) | lo"])
    (logs / "notes.txt").write_text("remember the milk\n")
    return logs


def test_every_command_that_reads_results_reads_an_import(program: Program, folder: Path, tmp_path: Path) -> None:
    done = program("import", folder, "--name", "old", "--baseline", "exact", "--candidate", "capped")
    assert done.code == 0, done.err
    assert [line.split()[:2] for line in done.out.splitlines()[1:]] == [
        ["capped", "completed"],
        ["exact", "completed"],
        ["nameless", "completed"],
    ]
    assert program("ls").out.splitlines()[1].split()[:3] == ["old", "old-logs", "completed"]
    assert json.loads(program("status", "old", "--json").out)["state"] == "completed"
    assert program("gate", "old").code == 4
    assert "ADVISORY" in program("gate", "old").out
    assert program("report", "old").code == 0
    assert program("export", "old").code == 0
    assert "completed" in program("status", "old", "--watch").out


def test_what_was_skipped_is_counted_and_explained(program: Program, folder: Path) -> None:
    done = program("import", folder, "--name", "old", "--explain")
    assert "1 parts of lines look like known ones and could not be used; --explain shows them" in done.err
    assert "notes.txt was left out: no line of it is a step" in done.err
    assert "line 132: step line that is cut before its loss: step 00007/00120 (5.83%) | lo" in done.out
    assert "nameless: its command line is not known: neither in the log nor in nameless.cmd.txt" in done.err


def test_json_accounts_for_every_file(program: Program, folder: Path) -> None:
    document = json.loads(program("import", folder, "--name", "old", "--json").out)
    assert document["schema"] == "nanochat-sweep/import/1"
    assert {file["file"].rsplit("/")[-1]: file["lines"] for file in document["files"]} == {
        "capped.log": 131,
        "exact.log": 131,
        "nameless.log": 132,
    }
    assert [run["log_status"] for run in document["runs"]] == ["completed"] * 3
    assert document["unused"] == {"notes.txt": "no line of it is a step"}


@pytest.mark.parametrize("verb", ["restore", "retry"])
def test_nothing_of_an_import_can_be_run(program: Program, folder: Path, verb: str) -> None:
    program("import", folder, "--name", "old")
    done = program(verb, "old")
    assert done.code == 2
    assert "nanochat-sweep launch SWEEP --continue-from old" in done.err
    assert "nameless.log, lines 1 to 131" in program("logs", "old", "nameless").err


def test_a_folder_that_is_none(program: Program, tmp_path: Path) -> None:
    done = program("import", tmp_path / "nothing")
    assert done.code == 2
    assert "cannot be read" in done.err
