"""Events as JSON on stdout, and a command that gets some of them on stdin."""

import json
import sys
from pathlib import Path

import pytest

from cli.announcing import NOTIFIED, announcing, checked_command
from sweeps.engine.watching.event_json import EVENT_NAMES, event_json
from sweeps.engine.watching.events import Event, LegAdvanced, LegCompleted, LegFailed, Place, Verdict, Warned
from sweeps.spec.errors import UsageError

AT = Place("static-b1", 2, 6)
DONE = LegCompleted(at=AT, num_steps=40, loss=5.5, tok_per_sec=1234.5, total_time_min=0.1)
PROGRESS = LegAdvanced(at=AT, step=3, num_steps=40, loss=6.0, tok_per_sec=1.0)
FAILED = LegFailed(at=AT, error="ValueError: x", log=Path("/logs/log.txt"), tail=("one", "two"))
VERDICT = Verdict(word="PASS", sentence="Use it.", exit_code=0)


def test_an_event_is_one_flat_object() -> None:
    assert event_json(FAILED, experiment="mine", time_utc="2026-01-01T00:00:00.000000Z") == {
        "schema": "nanochat-sweep/event/1",
        "time_utc": "2026-01-01T00:00:00.000000Z",
        "event": "leg_failed",
        "experiment": "mine",
        "trial": "static-b1",
        "position": 2,
        "num_trials": 6,
        "error": "ValueError: x",
        "log": "/logs/log.txt",
        "tail": ("one", "two"),
        "text": str(FAILED),
    }


def test_every_event_is_one_line_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[Event] = []
    with announcing(told.append, "mine", as_json=True, command=None) as tell:
        for event in (PROGRESS, DONE, FAILED):
            tell(event)
    assert told == [PROGRESS, DONE, FAILED]
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["leg_advanced", "leg_completed", "leg_failed"]


def command(folder: Path, body: str) -> tuple[str, ...]:
    script = folder / "notify.py"
    script.write_text(f"import sys\n{body}\n")
    return (sys.executable, str(script))


def test_the_command_gets_what_matters_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    got = tmp_path / "got.jsonl"
    words = command(tmp_path, f"open({str(got)!r}, 'a').write(sys.stdin.read())")
    with announcing(lambda _: None, "mine", as_json=False, command=words) as tell:
        for event in (PROGRESS, DONE, FAILED, VERDICT):
            tell(event)
    assert [json.loads(line)["event"] for line in got.read_text().splitlines()] == [
        "leg_completed",
        "leg_failed",
        "verdict",
    ]
    assert capsys.readouterr().out == ""


def test_a_command_that_fails_is_one_warning(tmp_path: Path) -> None:
    told: list[Event] = []
    words = command(tmp_path, "sys.exit('no network')")
    with announcing(told.append, "mine", as_json=False, command=words) as tell:
        for event in (DONE, DONE, DONE):
            tell(event)
    (warning,) = [event for event in told if isinstance(event, Warned)]
    assert "ended with 1: no network" in str(warning)


@pytest.mark.parametrize("text", ["no-such-command --now", "'open", ""])
def test_a_command_that_is_none_is_rejected_before_anything_starts(text: str) -> None:
    with pytest.raises(UsageError, match="--notify"):
        checked_command(text)


def test_every_notified_event_exists() -> None:
    assert set(NOTIFIED) <= set(EVENT_NAMES)


def test_the_page_lists_every_event() -> None:
    page = (Path(__file__).parents[2] / "docs" / "json.md").read_text().split("## nanochat-sweep/event/1")[1]
    assert [name for name in EVENT_NAMES if f"| `{name}` |" not in page] == []
