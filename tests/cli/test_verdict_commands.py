"""`gate`, `compare` and `why` over stored experiments: what they print, their JSON, their exit codes, bad input."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeps.records.experiment import Experiment
from tests.helpers.rows import row

Program = Callable[..., Any]
FAST, SLOW = "static_cap1p25", "static"


@pytest.fixture
def stored(make_experiment: Callable[..., Experiment], complete: Callable[..., None]) -> Callable[..., Experiment]:
    """stored("a", candidate_ms=90.0): three blocks; the candidate's steps take so long, all others 100 ms."""

    def make(id: str, candidate_ms: float = 90.0, num_blocks: int = 3) -> Experiment:
        experiment = make_experiment(num_blocks, id)
        for trial in experiment.plan.trials:
            dt_ms = candidate_ms if trial.leg.name == FAST else 100.0
            dt_ms *= 1 + 0.0002 * trial.block
            loss = 3.9 if trial.leg.name == FAST else 4.0
            rows = [
                row(s, trial=trial.name, dt_ms=dt_ms, tok_per_sec=5e5 / dt_ms, loss=9.0 if s < 5 else loss)
                for s in range(40)
            ]
            complete(experiment, trial.name, rows)
        return experiment

    return make


def test_gate_says_which_leg_to_use_on_which_floor_and_exits_with_0(program: Program, stored: Any) -> None:
    stored("a")
    done = program("gate", "a")
    assert done.code == 0
    assert done.out.startswith(f"PASS: Use {FAST}: +11.1 % [")
    assert "floor: 0.15 % between runs (default, not calibrated)" in done.out
    told = json.loads(program("gate", "a", "--json").out)
    assert (told["exit_code"], told["calibration"], told["floor_sd"]) == (0, None, 0.0015)


@pytest.mark.parametrize(("candidate_ms", "num_blocks", "code"), [(110.0, 3, 3), (90.0, 1, 4)])
def test_gate_exits_with_3_or_4(program: Program, stored: Any, candidate_ms: float, num_blocks: int, code: int) -> None:
    stored("a", candidate_ms, num_blocks)
    assert program("gate", "a").code == code


def test_compare_is_advice_between_two_launches(program: Program, stored: Any) -> None:
    stored("a")
    stored("b", 80.0)
    done = program("compare", "a", "b")
    assert done.code == 4
    assert done.out.startswith("ADVISORY: b over a: the leg that fares worst is ")
    assert f"{FAST} " in done.out
    told = json.loads(program("compare", "a", "b", "--json").out)
    pair = next(leg for leg in told["legs"] if leg["leg"] == FAST)
    assert pair["ratio"] == pytest.approx(90 / 80)
    assert (pair["verdict"], told["exit_code"]) == ("ADVISORY", 4)


def test_why_follows_the_difference_and_names_what_differs(program: Program, stored: Any) -> None:
    stored("a")
    done = program("why", "a", FAST)
    assert done.code == 0
    assert done.out.startswith(
        f"{FAST}: +11.1 % tok/s against {SLOW} (IMPROVED, 3 blocks), \N{MINUS SIGN}10.0 ms a step"
    )
    assert "moe.capacity_factor" in done.out
    told = json.loads(program("why", "a", FAST, "--against", "bf16", "--json").out)
    assert (told["schema"], told["leg"], told["against"], told["blocks"]) == ("nanochat-sweep/why/1", FAST, "bf16", 3)
    assert {part["section"] for part in told["parts"]} == {"step", "compile", "steps", "clocks", "wall"}


def test_an_experiment_that_has_not_begun_explains_nothing_yet(program: Program, make_experiment: Any) -> None:
    make_experiment(2, "a")
    make_experiment(2, "b")
    assert "nothing to explain yet" in program("why", "a", FAST).out
    assert program("gate", "a").code == 4
    done = program("compare", "a", "b")
    assert (done.code, done.err) == (4, "")
    assert done.out.startswith("UNDECIDED: no leg is measured in both a and b.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("why", "a", "cap9"), "a has no leg 'cap9'"),
        (("why", "a", SLOW), "name another leg with --against"),
        (("why", "nosuch", SLOW), "no experiment 'nosuch'"),
        (("compare", "a", "a"), "a is given twice"),
        (("compare", "a", "nosuch"), "no experiment 'nosuch'"),
        (("compare", "a"), "Missing argument"),
        (("gate", "nosuch"), "no experiment 'nosuch'"),
    ],
)
def test_bad_input_is_one_sentence(program: Program, stored: Any, words: tuple[str, ...], message: str) -> None:
    stored("a", num_blocks=1)
    done = program(*words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_a_damaged_trial_is_left_out_with_a_warning(program: Program, stored: Any) -> None:
    experiment = stored("a")
    result = Path(experiment.uri) / "trials" / f"{FAST}-b2" / "result.json"
    result.write_text("{")
    for words in (("gate", "a"), ("why", "a", FAST)):
        done = program(*words)
        assert f"{FAST}-b2 is left out" in done.err
        assert done.out


def test_gate_tests_itself_or_says_what_that_takes(program: Program, stored: Any) -> None:
    stored("a")
    done = program("gate", "a", "--self-test")
    assert done.code == 0
    assert "equal legs, one called different: " in done.out
    assert "(bound 1 %)" in done.out
    stored("b", num_blocks=1)
    early = program("gate", "b", "--self-test")
    assert (early.code, early.out) == (4, "")
    assert "restore b --blocks 3" in early.err


def test_what_ran_on_a_cpu_is_told_with_a_warning(program: Program, stored: Any) -> None:
    for id in ("a", "b"):
        for trial in (experiment := stored(id)).plan.trials:
            record = experiment.trial(trial.name)
            attempt = record.attempts()[0]
            record.update_attempt(dataclasses.replace(attempt, facts={**(attempt.facts or {}), "device": "cpu"}))
    for words in (("gate", "a"), ("why", "a", FAST), ("compare", "a", "b")):
        assert "neither does their peak memory" in program(*words).err
