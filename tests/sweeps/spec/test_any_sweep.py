"""Whatever a sweep file holds: a sweep that can be planned and stored, or one sentence. Nothing else."""

import contextlib
import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat.config import MoEConfig, PrecisionConfig, field_paths
from nanochat.recipes import d12_moe_fp8, shrink_to_tiny
from sweeps.spec import Axis, Control, Gate, Sweep, TailWindow
from sweeps.spec.commands import torchrun_argv
from sweeps.spec.errors import SweepError
from sweeps.spec.find import load_sweep
from sweeps.spec.plan import make_plan, plan_from_json, plan_to_json
from sweeps.spec.preset import apply_preset, apply_settings

SLOW_AND_LARGE = [
    *(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example),
    *(HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture),
]
NUMBERS: st.SearchStrategy[Any] = st.sampled_from(
    [0, 1, 2, -1, 2**31, 2**62, 2**63, 10**400, 10**5000, 0.5, -0.0, 5e-324, 1e-9, 1e308, float("inf"), float("nan")]
)
SIMPLE = st.none() | st.booleans() | NUMBERS | st.integers() | st.floats() | st.text(max_size=8)
VALUES = (
    SIMPLE
    | st.lists(SIMPLE, max_size=2)
    | st.dictionaries(st.text(max_size=8) | st.sampled_from(["num_experts", "top_k", "depth"]), SIMPLE, max_size=2)
    | st.sampled_from([MoEConfig(), MoEConfig(num_experts=4, top_k=1), PrecisionConfig(), "static", "fp8", "cpu"])
)
SECTIONS = ["model", "moe", "precision", "compile", "optim", "schedule", "data", "eval", "run"]
PATHS = st.sampled_from([*SECTIONS, *field_paths()]) | st.sampled_from(["moe.top_k", "compile.mode", "moe"]) | st.text()
OVERRIDES = st.dictionaries(PATHS, VALUES, max_size=3)


def _sweep(data: st.DataObject) -> Sweep:
    """Parts of all kinds around a base that is good."""
    drawn = data.draw(st.lists(st.tuples(PATHS, st.lists(VALUES, min_size=1, max_size=2)), max_size=2))
    axes = [Axis(path, values) for path, values in drawn]
    first = {axis.path: axis.values[0] for axis in axes}
    return Sweep(
        name=data.draw(st.just("any") | st.text(max_size=5)),
        base=data.draw(st.sampled_from([d12_moe_fp8(100), shrink_to_tiny(d12_moe_fp8(100))])),
        num_workers=data.draw(st.just(1) | NUMBERS),
        window=TailWindow(data.draw(st.just(5) | NUMBERS)),
        axes=axes,
        only=data.draw(st.none() | st.lists(st.tuples(VALUES, VALUES) | VALUES, max_size=2)),
        controls=[Control(overrides) for overrides in data.draw(st.lists(OVERRIDES, max_size=2))],
        baseline=data.draw(st.just(first) | OVERRIDES),
        candidate=data.draw(st.none() | OVERRIDES),
        gates=[Gate("loss", at_most=data.draw(NUMBERS))] if data.draw(st.booleans()) else [],
        checkpoint_every=data.draw(st.none() | NUMBERS),
    )


def _check_plan(sweep: Sweep) -> None:
    """What is accepted can be planned, stored, read again and typed, or is rejected by one sentence."""
    plan = make_plan(sweep)
    assert plan_from_json(json.loads(json.dumps(plan_to_json(plan), allow_nan=False))) == plan
    for leg in plan.legs:
        with contextlib.suppress(SweepError):
            assert torchrun_argv(leg, plan.num_workers)[0] == "torchrun"


@settings(suppress_health_check=SLOW_AND_LARGE, deadline=None)
@given(st.data())
def test_any_parts_make_a_plan_or_one_sentence(data: st.DataObject) -> None:
    with contextlib.suppress(SweepError):
        _check_plan(_sweep(data))


@settings(suppress_health_check=SLOW_AND_LARGE, deadline=None)
@given(
    st.lists(st.tuples(PATHS, VALUES), max_size=3),
    st.none() | st.just("tiny"),
    st.none() | NUMBERS | st.integers(1, 300),
    st.none() | NUMBERS,
)
def test_any_settings_make_a_plan_or_one_sentence(
    sets: list[tuple[str, Any]], preset: str | None, num_steps: int | None, num_workers: int | None
) -> None:
    texts = []
    for path, value in sets:
        with contextlib.suppress(ValueError):  # Python itself does not print 10^5000
            texts.append(f"{path}={value}")
    with contextlib.suppress(SweepError):
        sweep = apply_preset(load_sweep("smoke"), preset)
        _check_plan(apply_settings(sweep, num_workers=num_workers, num_steps=num_steps, sets=texts))


GOOD = """
from nanochat.config import MoEConfig, with_overrides
from nanochat.recipes import d12_moe, shrink_to_tiny
from sweeps.spec import Axis, Control, Gate, Sweep, TailWindow

SWEEP = Sweep(
    name="any", base=d12_moe(num_steps=100), num_workers=2, checkpoint_every=10,
    axes=[Axis("moe.capacity_factor", [None, 1.0])], controls=[Control({"moe": None})],
    baseline={"moe.capacity_factor": None}, candidate={"moe.capacity_factor": 1.0}, window=TailWindow(num_steps=10),
    gates=[Gate("loss", at_most=1.01)],
)
"""
WORDS = GOOD.replace("(", " ( ").replace(")", " ) ").replace("[", " [ ").replace(",", " , ").split(" ")
REPLACEMENTS = st.sampled_from(
    ["None", "0", "-1", "10**400", "10**5000", "1e400", "'x'", "[]", "{}", "()", "print", ")", "("]
) | st.text(max_size=4)


@settings(suppress_health_check=SLOW_AND_LARGE, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(WORDS) - 1), REPLACEMENTS), min_size=1, max_size=3))
def test_any_edit_of_a_file_makes_a_plan_or_one_sentence(tmp_path: Path, edits: list[tuple[int, str]]) -> None:
    words: list[str] = [*WORDS]
    for place, text in edits:
        words[place] = text
    file = tmp_path / "edited.py"
    file.write_bytes(" ".join(words).encode(errors="surrogatepass"))
    with contextlib.suppress(SweepError):
        _check_plan(load_sweep(str(file)))
