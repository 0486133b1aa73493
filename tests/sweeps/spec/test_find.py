"""A sweep file is found, run and taken; whatever is wrong with it is one sentence with its file and line."""

import sys
from pathlib import Path

import pytest

from sweeps.capacity import SWEEP as CAPACITY
from sweeps.spec.errors import SweepError
from sweeps.spec.find import built_in_sweeps, load_sweep

GOOD = '''"""Does it
load?

More words.
"""
from dataclasses import dataclass

from nanochat.recipes import d12_moe
from sweeps.spec import Axis, Sweep, TailWindow


@dataclass
class Note:
    text: str


SWEEP = Sweep(
    name="good",
    base=d12_moe(num_steps=10),
    num_workers=1,
    axes=[Axis("moe.top_k", [1, 2])],
    baseline={"moe.top_k": 1},
    window=TailWindow(num_steps=5),
)
'''


def write(folder: Path, text: str) -> str:
    path = folder / "mine.py"
    path.write_text(text)
    return str(path)


def test_a_file_is_loaded_by_path_with_its_question(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, GOOD))
    assert (sweep.name, sweep.question) == ("good", "Does it load?")


def test_loading_leaves_nothing_behind(tmp_path: Path) -> None:
    modules = set(sys.modules)
    load_sweep(write(tmp_path, GOOD))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]
    assert {name for name in set(sys.modules) - modules if "mine" in name} == set()


def test_an_edited_file_is_read_anew(tmp_path: Path) -> None:
    load_sweep(write(tmp_path, GOOD))
    assert load_sweep(write(tmp_path, GOOD.replace('"good"', '"edit"'))).name == "edit"


def test_a_built_in_sweep_is_found_by_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_sweep("capacity").legs == CAPACITY.legs
    assert {"capacity", "compile_modes", "precision", "smoke"} <= set(built_in_sweeps())


def test_every_built_in_sweep_asks_a_question_in_under_fifty_lines() -> None:
    for name in built_in_sweeps():
        assert load_sweep(name).question.endswith("?")
        source = Path(__file__).parents[3] / "sweeps" / f"{name}.py"
        assert len(source.read_text().splitlines()) < 50


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\ny = (\n", "mine.py:2: syntax error: "),
        ("x = 1\n", "mine.py: the file defines no SWEEP"),
        ("SWEEPS = 1\n", "the file defines no SWEEP; did you mean SWEEPS?"),
        ("SWEEP = {}\n", "mine.py: SWEEP must be a sweeps.spec.Sweep, it is a dict"),
        ("\n1 / 0\n", "mine.py:2: ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)\n", "mine.py:1: SystemExit: 3"),
        ("import nothing_of_this_name\n", "mine.py:1: ModuleNotFoundError"),
        (GOOD.replace('moe.top_k", [1', 'moe.topk", [1'), "mine.py:21: axis 'moe.topk': unknown config field"),
        (GOOD.replace("num_steps=10", "num_steps=0"), "mine.py:19: schedule.num_steps must be positive or None, got 0"),
        ("\0", "mine.py"),
        ("# -*- coding: no_such -*-\n", "mine.py:1: syntax error"),
    ],
)
def test_what_is_wrong_with_a_file_is_named_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SweepError) as caught:
        load_sweep(write(tmp_path, text))
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_sweep_that_is_not_there_is_refused_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"no such file\); did you mean capacity\?; built in: capacity"):
        load_sweep("sweeps/capcity.py")
    with pytest.raises(SweepError, match="a folder"):
        load_sweep(str(tmp_path))
