"""A sweep file can import modules next to it, and no other sweep notices."""

import sys
from pathlib import Path

import pytest

from sweeps.spec.errors import SweepError
from sweeps.spec.find import load_sweep
from sweeps.spec.plan import make_plan, plan_from_json, plan_to_json
from sweeps.spec.preset import apply_preset

SWEEP = """
from nanochat.recipes import d12_moe
from sweeps.spec import Axis, Sweep, TailWindow
from common import STEPS, AXES
{more}

SWEEP = Sweep(
    name="{name}",
    base=d12_moe(num_steps=STEPS),
    num_workers=1,
    axes=AXES,
    baseline={{AXES[0].path: AXES[0].values[0]}},
    window=TailWindow(num_steps=2),
    {parts}
)
"""
COMMON = 'from sweeps.spec import Axis\nSTEPS = {steps}\nAXES = [Axis("moe.top_k", [1, 2])]\n'


def _write(folder: Path, *, steps: int = 10, name: str = "mine", more: str = "", parts: str = "") -> str:
    folder.mkdir(exist_ok=True)
    (folder / "common.py").write_text(COMMON.format(steps=steps))
    path = folder / "mine.py"
    path.write_text(SWEEP.format(name=name, more=more, parts=parts))
    return str(path)


def _steps(sweep: str) -> int | None:
    return load_sweep(sweep).base.schedule.num_steps


def test_two_sweeps_have_each_their_own_neighbour_of_one_name(tmp_path: Path) -> None:
    first, second = _write(tmp_path / "a", steps=10), _write(tmp_path / "b", steps=20)
    assert [_steps(first), _steps(second), _steps(first)] == [10, 20, 10]


def test_nothing_stays_behind_in_memory_or_on_the_disk(tmp_path: Path) -> None:
    modules, path, meta = set(sys.modules), list(sys.path), list(sys.meta_path)
    package = tmp_path / "shared"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text("WORKERS = 3\n")
    sweep = load_sweep(_write(tmp_path, more="from shared.parts import WORKERS"))
    assert sweep.base.schedule.num_steps == 10
    new = {name.partition(".")[0] for name in set(sys.modules) - modules}
    assert new & {"common", "shared", "mine"} == set()
    assert (sys.path, sys.meta_path) == (path, meta)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == [
        *("common.py", "mine.py", "shared", "shared/__init__.py", "shared/parts.py"),
    ]


def test_an_edited_neighbour_is_read_again(tmp_path: Path) -> None:
    assert [_steps(_write(tmp_path, steps=steps)) for steps in (10, 20, 30)] == [10, 20, 30]


def test_a_neighbour_comes_before_a_module_of_that_name_which_is_there_again_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = type(sys)("common")
    monkeypatch.setitem(sys.modules, "common", other)
    assert _steps(_write(tmp_path)) == 10
    assert sys.modules["common"] is other


@pytest.mark.parametrize("name", ["random", "json", "sweeps", "nanochat"])
def test_the_standard_library_and_this_project_cannot_be_hidden(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path, more=f"import {name}\nassert {name}.__file__ != {str(tmp_path / f'{name}.py')!r}")
    (tmp_path / f"{name}.py").write_text("raise RuntimeError\n")
    before = sys.modules.get(name)
    assert _steps(path) == 10
    assert sys.modules.get(name) is before or before is None


def test_a_function_that_names_legs_can_import_later(tmp_path: Path) -> None:
    more = "def named(config):\n    from labels import label\n    return label(config)\n"
    path = _write(tmp_path, more=more, parts="leg_name=named,")
    (tmp_path / "labels.py").write_text("def label(config):\n    import common\n    return f'k{config.moe.top_k}'\n")
    tiny = apply_preset(load_sweep(path), "tiny")
    assert [leg.name for leg in tiny.legs] == ["k1", "k2"]
    assert "labels" not in sys.modules


def test_a_stored_plan_needs_no_neighbour(tmp_path: Path) -> None:
    more = "import enum\nclass K(enum.IntEnum):\n    ONE = 1\nAXES = [Axis('moe.top_k', [K.ONE, 2])]\n"
    plan = plan_from_json(plan_to_json(make_plan(load_sweep(_write(tmp_path, more=more)))))
    assert [type(leg.config.moe.top_k) for leg in plan.legs if leg.config.moe] == [int, int]


@pytest.mark.parametrize(
    ("neighbour", "words"),
    [
        ("x = 1 / 0\n", "mine.py:4: ZeroDivisionError: division by zero (common.py:1)"),
        ("x = (\n", "mine.py:4: SyntaxError: '(' was never closed (common.py, line 1)"),
        ("from sweeps.spec import Axis\nAXES = [Axis('moe.topk', [1])]\n", "did you mean moe.top_k? (common.py:2)"),
        ("STEPS = 1\n", "mine.py:4: ImportError: cannot import name 'AXES'"),
        ("import comon\n", "mine.py:4: ModuleNotFoundError: No module named 'comon' (common.py:1)"),
    ],
)
def test_an_error_in_a_neighbour_is_told_with_both_places(tmp_path: Path, neighbour: str, words: str) -> None:
    path = _write(tmp_path)
    (tmp_path / "common.py").write_text(neighbour)
    with pytest.raises(SweepError) as caught:
        load_sweep(path)
    assert words in str(caught.value)
    assert "common" not in sys.modules


def test_a_misspelt_neighbour_and_a_misspelt_part_have_a_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"No module named 'comon'; did you mean common\?"):
        load_sweep(_write(tmp_path, more="import comon"))
    with pytest.raises(SweepError, match=r"unexpected keyword argument 'candidat'; did you mean candidate\?"):
        load_sweep(_write(tmp_path, parts="candidat={},"))
