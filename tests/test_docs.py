"""The pages in docs/ and AGENTS.md: their commands are ones of the program, links lead somewhere, examples run."""

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cli.main import app
from nanochat.flags import parse_flags
from sweeps.spec.metrics import GATE_METRICS
from sweeps.spec.parts import Axis, Control, Gate, TailWindow
from sweeps.spec.sweep import Sweep
from tests.helpers.field_table import field_table
from tests.helpers.foreign_logs import log_lines, write_log

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "AGENTS.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHER = ("make", "ray", "export", ".", "pip", "git", "python", "apt-get", "pre-commit", "exec")
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def page(name: str) -> str:
    return (ROOT / name).read_text()


def commands(text: str) -> list[str]:
    """The lines of bash blocks, joined where a backslash ends them."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in re.sub(r" *\\\n *", " ", block).splitlines()]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", [ROOT / "README.md", *PAGES], ids=lambda path: path.name)
def test_every_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    broken: list[str] = []
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_is_one_of_the_program(path: Path) -> None:
    program = typer.main.get_command(app)
    for command in commands(path.read_text()):
        words = shlex.split(command, comments=True)
        if not words or words[0] in OTHER:
            continue
        if words[0] == "torchrun":
            parse_flags(words[words.index("--") :])
            continue
        assert words[0] == "nanochat-sweep", command
        verb = program.commands[words[1]]  # type: ignore[attr-defined]
        verb.make_context(words[1], words[2:], resilient_parsing=False)


@pytest.mark.parametrize("path", [ROOT / "README.md", *PAGES], ids=lambda path: path.name)
def test_every_verb_that_a_text_names_exists(path: Path) -> None:
    verbs = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    named = set(re.findall(r"(?:`|\$ )nanochat-sweep ([a-z]+)\b", path.read_text(), re.MULTILINE))
    assert named - verbs == set()


def test_the_field_table_is_that_of_the_config() -> None:
    table = field_table()
    assert table in page("docs/sweeps.md"), f"replace the table under Fields by:\n{table}"


def test_the_page_on_sweeps_names_every_part_and_metric() -> None:
    text = page("docs/sweeps.md")
    parts = [kind.__name__ for kind in (Sweep, Axis, Control, Gate, TailWindow)]
    assert [name for name in (*parts[1:], *GATE_METRICS) if name not in text] == []
    listed = re.search(r"Gates know these metrics: ([^.]*)\.", text)
    assert listed is not None
    assert sorted(re.findall(r"`(\w+)`", listed[1])) == sorted(GATE_METRICS)


def test_the_page_on_the_report_names_every_metric_that_a_gate_can_bound() -> None:
    listed = re.search(r"\*\*What a gate can bound\.\*\* ([^.]*)\.", page("docs/report.md"))
    assert listed is not None
    assert sorted(re.findall(r"`(\w+)`", listed[1])) == sorted(GATE_METRICS)


@pytest.fixture
def place(tmp_path: Path, make_place: Callable[[Path], Path]) -> Path:
    return make_place(tmp_path)


def test_the_example_of_a_sweep_is_planned(place: Path, run_in_shell: Run) -> None:
    text = page("docs/sweeps.md")
    (program,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (place / "topk.py").write_text(program)
    full, tiny, torchrun = (run_in_shell(command, place) for command in commands(text))
    assert "5 legs x 1 block = 5 trials" in full.stdout, full.stderr
    legs = json.loads(tiny.stdout)["legs"]
    assert [leg["role"] for leg in legs].count("control") == 1
    assert next(leg for leg in legs if leg["role"] == "control")["config"]["moe"] is None
    assert len(torchrun.stdout.splitlines()) == 5


def test_old_logs_are_imported_as_the_page_says(place: Path, run_in_shell: Run) -> None:
    write_log(place / "old-logs", "exact", log_lines(), capacity="0.0")
    for command in commands(page("docs/moving.md")):
        done = run_in_shell(command, place)
        assert done.returncode == 0, done.stderr
    assert (place / "storage/old/report/report.md").exists()


@pytest.mark.integration
def test_an_agent_reads_and_decides_with_the_commands_of_its_page(first_experiment: Any, run_in_shell: Run) -> None:
    text = page("AGENTS.md")
    reading = [c for c in commands(text) if re.search(r" first\b", c) and " launch " not in c]
    assert len(reading) >= 8
    for command in (*reading, "nanochat-sweep ls --json"):
        done = run_in_shell(command, first_experiment.place, timeout_s=300)
        assert done.returncode in ((4,) if " gate " in command else (0,)), f"{command}\n{done.stderr}"
        if "--json" in command:
            assert json.loads(done.stdout)["schema"].startswith("nanochat-sweep/")
