"""docs/json.md lists every key of every --json, and every --json has the keys that it lists."""

import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.main import app
from sweeps.records.experiment import Experiment
from tests.helpers.foreign_logs import log_lines, write_log

Program = Callable[..., Any]
OTHER = "none_cap1p25"
PAGE = (Path(__file__).parents[2] / "docs" / "json.md").read_text()


def documented(schema: str) -> dict[str, str]:
    """Key -> type, of one section."""
    section = PAGE.split(f"## {schema}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", section, re.MULTILINE)
    return {key: kind.strip() for key, kind in rows}


def paths(value: Any, known: dict[str, str], at: str = "") -> Iterator[str]:
    """The documented names of what a document holds; below an object nothing is listed."""
    if known.get(at) == "object" or known.get(f"{at}[]") == "object":
        yield at if at in known else f"{at}[]"
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, known, f"{at}.{key}" if at else key)
    elif isinstance(value, list):
        if not any(isinstance(item, dict) for item in value):
            yield f"{at}[]"
        for item in value:
            if isinstance(item, dict):
                yield from paths(item, known, f"{at}[]")
    else:
        yield at


def check(text: str, schema: str) -> None:
    document = json.loads(text)
    assert next(iter(document)) == "schema"
    assert document.pop("schema") == schema
    known = documented(schema)
    seen = set(paths(document, known))
    empty = {path for path in seen if path.endswith("[]") and path not in known}  # a list of objects without one
    assert {path for path in seen - empty if path not in known} == set()
    assert {key for key in known if key not in seen and not any(key.startswith(path) for path in empty)} == set()


@pytest.fixture
def experiment(make_experiment: Callable[..., Experiment], complete: Callable[..., None]) -> Experiment:
    made, other = make_experiment(id="mine"), make_experiment(id="other")
    complete(made, made.plan.trials[0].name)
    complete(made, f"{OTHER}-b1")
    complete(other, made.plan.trials[0].name)
    return made


@pytest.mark.parametrize(
    ("words", "schema"),
    [
        (["status", "mine", "--json"], "nanochat-sweep/status/1"),
        (["gate", "mine", "--json"], "nanochat-sweep/gate/1"),
        (["handoff", "mine", "--json"], "nanochat-sweep/handoff/1"),
        (["why", "mine", OTHER, "--json"], "nanochat-sweep/why/1"),
        (["compare", "mine", "other", "--json"], "nanochat-sweep/compare/1"),
        (["ls", "--json"], "nanochat-sweep/ls/1"),
        (["report", "mine", "--json"], "nanochat-sweep/report/1"),
        (["export", "mine", "--json"], "nanochat-sweep/export/1"),
        (["plan", "capacity", "--json"], "nanochat-sweep/plan/1"),
    ],
)
def test_a_document_has_the_keys_that_are_documented(
    program: Program, experiment: Experiment, words: list[str], schema: str
) -> None:
    check(program(*words).out, schema)


def test_that_of_a_self_test(program: Program, make_experiment: Callable[..., Experiment], complete: Any) -> None:
    made = make_experiment(2, "twice")
    for trial in made.plan.trials:
        complete(made, trial.name)
    check(program("gate", "twice", "--self-test", "--json").out, "nanochat-sweep/self-test/1")


def test_that_of_the_text_and_of_the_machine(program: Program) -> None:
    check(program("data", "--json").out, "nanochat-sweep/data/1")
    check(program("doctor", "--json").out, "nanochat-sweep/doctor/1")


def test_that_of_an_import(program: Program, tmp_path: Path) -> None:
    write_log(tmp_path / "logs", "a", [*log_lines(), "step 00007/00120 (5.83%) | lo"])
    check(program("import", tmp_path / "logs", "--json").out, "nanochat-sweep/import/1")


def test_every_documented_schema_is_checked_here() -> None:
    own = Path(__file__).read_text()
    listed = re.findall(r"^## (\S+)$", PAGE, re.MULTILINE)
    events = "nanochat-sweep/event/1"  # tests/cli/test_announcing.py
    assert [name for name in listed if name not in own and name != events] == []


def test_every_command_with_json_has_a_section() -> None:
    verbs = {
        command.name or getattr(command.callback, "__name__", "")
        for command in app.registered_commands
        if command.callback is not None and "as_json" in inspect.signature(command.callback).parameters
    }
    sections = set(re.findall(r"^## nanochat-sweep/(\w+)/1$", PAGE, re.MULTILINE))
    assert verbs - sections == set()
