"""`plan` prints what would run: for people, for programs, for torchrun."""

import dataclasses
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.plan import plan
from nanochat.config import from_dict
from nanochat.flags import LAUNCHER_FLAGS, parse_flags
from sweeps.capacity import SWEEP as CAPACITY
from sweeps.results.decisions.foresight import gate_sentence
from sweeps.results.measures.cost import cost_of
from sweeps.spec import Gate
from sweeps.spec.errors import SweepError, UsageError
from sweeps.spec.plan import make_plan

Program = Callable[..., Any]
GOLDEN = Path(__file__).parent / "golden"


def test_the_commands_of_capacity_are_exactly_these(capsys: pytest.CaptureFixture[str]) -> None:
    plan(sweep="capacity", commands=True)
    assert capsys.readouterr().out == (GOLDEN / "plan_capacity_commands.txt").read_text()


def test_every_command_means_its_leg(capsys: pytest.CaptureFixture[str]) -> None:
    plan(sweep="capacity", commands=True)
    for line, leg in zip(capsys.readouterr().out.splitlines(), CAPACITY.legs, strict=True):
        words = shlex.split(line)
        assert words[: words.index("--") + 1] == [
            *["torchrun", *LAUNCHER_FLAGS, "--nproc_per_node=8", "-m", "scripts.base_train", "--"],
        ]
        config, options = parse_flags(words[words.index("--") + 1 :])
        assert options.model_tag == leg.name
        assert (config.model, config.moe, config.precision) == (leg.config.model, leg.config.moe, leg.config.precision)
        assert (config.compile, config.data, config.schedule) == (
            leg.config.compile,
            leg.config.data,
            leg.config.schedule,
        )
        assert config.run.checkpoint_every == 280
        assert ("--fp8" in words) == (leg.role != "control")


def test_the_json_holds_the_legs_and_their_commands(capsys: pytest.CaptureFixture[str]) -> None:
    plan(sweep="capacity", as_json=True, num_workers=4, blocks="3")
    document = json.loads(capsys.readouterr().out)
    assert list(document)[:2] == ["schema", "sweep"]
    assert document["schema"] == "nanochat-sweep/plan/1"
    assert (document["sweep"], document["num_workers"], document["blocks"]) == ("capacity", 4, 3)
    assert all({"name", "id", "role", "overrides", "torchrun"} <= set(leg) for leg in document["legs"])
    assert {(leg["steps"], leg["batch_tokens"], leg["tokens"]) for leg in document["legs"]} == {
        (280, 524_288, 280 * 524_288)
    }
    assert all(from_dict(leg["config"]).schedule.num_steps == 280 for leg in document["legs"])
    first = document["legs"][0]
    assert first["overrides"] == {"compile.mode": "static", "moe.capacity_factor": None}
    assert first["torchrun"][:4] == ["torchrun", *LAUNCHER_FLAGS, "--nproc_per_node=4"]


def test_the_text_shows_the_question_the_amount_and_the_legs(capsys: pytest.CaptureFixture[str]) -> None:
    plan(sweep="capacity", preset="tiny", num_steps=20, blocks="2", set=["moe.num_experts=4"])
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "Does a bounded expert queue pay" in printed.out
    assert "6 legs x 2 blocks = 12 trials, one at a time, on 2 workers" in printed.out
    assert "20 steps of 512 tokens; measured over the last 5 steps: losses only, as the first 20 of" in printed.out
    for leg in CAPACITY.legs:
        assert f"{leg.name} " in printed.out


@pytest.mark.parametrize(
    ("parallel", "stored", "words"),
    [
        ("auto", "auto", "blocks side by side, one on every free node, their legs one at a time, on 2 workers"),
        ("2", 2, "blocks side by side, up to 2 at a time, their legs one at a time, on 2 workers"),
    ],
)
def test_the_plan_says_what_runs_side_by_side(
    capsys: pytest.CaptureFixture[str], parallel: str, stored: object, words: str
) -> None:
    plan(sweep="smoke", blocks="2", parallel=parallel)
    assert words in capsys.readouterr().out
    plan(sweep="smoke", blocks="2", parallel=parallel, as_json=True)
    assert json.loads(capsys.readouterr().out)["parallel"] == stored


@pytest.mark.parametrize("parallel", ["0", "-1", "1.5", "all", "", "9" * 40])
def test_blocks_at_a_time_are_a_number_or_auto(parallel: str) -> None:
    with pytest.raises(UsageError, match="--parallel is a number of blocks from 1 on or 'auto'"):
        plan(sweep="smoke", parallel=parallel)


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        plan(sweep="capacity", as_json=True, commands=True)
    with pytest.raises(SweepError, match="do not divide over 5 workers"):
        plan(sweep="capacity", num_workers=5)


@pytest.mark.parametrize(
    ("num_steps", "words"),
    [
        (24, "24 steps of 256 tokens; measured over the last 4 steps, times over as many that count (at most 4 of 24"),
        (40, "measured over the last 10 steps, times over as many that count (at most 19 of 40 can)"),
        (3, "measured over the last 1 step: losses only, as the first 20 of a start never count for timing"),
    ],
)
def test_it_says_which_steps_will_count(num_steps: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    plan(sweep="smoke", num_steps=num_steps)
    assert words in capsys.readouterr().out


def test_it_says_what_the_gates_ask_what_the_blocks_can_decide_and_that_the_cost_is_unknown(program: Program) -> None:
    said = program("plan", "capacity", "--blocks", "4").out
    one, other = "moe_fp8_experts_static_cap1p0", "moe_fp8_experts_static_cap0p0"
    assert f"  tok/s of {one} is better than that of {other}\n" in said
    assert f"  peak MiB of {one} is at most 5.0 % above that of {other}\n" in said
    assert "smallest effect that 4 blocks can decide: \N{PLUS-MINUS SIGN}0.46 % tok/s" in said
    assert "floor 0.15 % between runs (default, not calibrated)" in said
    assert "cost: time unknown (no earlier run of these configs on 8 workers" in said


@pytest.mark.parametrize(
    ("bound", "words"),
    [
        ({"at_most": 1.05}, "at most 5.0 % above that of"),
        ({"at_least": 1.05}, "at least 5.0 % above that of"),
        ({"at_least": 0.8}, "at most 20.0 % below that of"),
        ({"at_most": 0.8}, "at least 20.0 % below that of"),
        ({"at_most": 1.0}, "at most that of"),
        ({"at_most": 2.0}, "at most 100 % above that of"),
    ],
)
def test_a_bound_is_said_in_the_direction_in_which_it_lies(bound: dict[str, Any], words: str) -> None:
    said = gate_sentence(Gate("peak_mib", **bound), make_plan(CAPACITY))
    assert f" is {words} moe_fp8_experts_static_cap0p0" in said


def test_a_speed_gives_the_cost_and_one_block_decides_nothing(program: Program) -> None:
    said = program("plan", "capacity", "--tok-per-sec", "400000").out
    assert "1 block can decide none, and what is measured is advice" in said
    assert "cost: about 37 min, 4.89 GPU-hours" in said  # 6 x 280 steps of 524,288 tokens, 8 GPUs
    document = json.loads(program("plan", "capacity", "--tok-per-sec", "400000", "--json").out)
    assert document["cost"]["minutes"] == pytest.approx(6 * 280 * 524_288 / 400_000 / 60)
    assert document["smallest_effect_pct"] is None
    assert set(document["smallest_effect_pct_by_blocks"]) == {"3", "4", "5", "6", "7", "8"}
    assert document["gates"][1]["at_most"] == 1.05


@pytest.mark.parametrize("speed", ["0", "-3", "nan", "inf"])
def test_a_speed_that_cannot_be_is_rejected(program: Program, speed: str) -> None:
    done = program("plan", "smoke", f"--tok-per-sec={speed}")
    assert (done.code, done.out) == (2, "")
    assert "--tok-per-sec must be a number above 0" in done.err


def test_an_earlier_run_of_the_same_configs_says_what_it_takes(
    program: Program, make_experiment: Any, complete: Any, toy_plan: Any
) -> None:
    experiment = make_experiment(num_blocks=2)
    for trial in experiment.plan.trials:
        complete(experiment, trial.name)
        attempt = experiment.trial(trial.name).attempts()[0]
        experiment.trial(trial.name).update_attempt(dataclasses.replace(attempt, run_s=90.0))
    cost = cost_of(toy_plan(num_blocks=3), str(Path(experiment.uri).parent), None)
    assert (cost.seconds, cost.unknown) == (90.0 * 12, [])
    assert cost.gpu_hours == pytest.approx(90 * 12 * 2 / 3600)
    longer = dataclasses.replace(toy_plan(), num_workers=4)
    assert cost_of(longer, str(Path(experiment.uri).parent), None).unknown  # on other hardware it says nothing


def test_legs_that_do_not_run_leave_less_to_decide_with(program: Program) -> None:
    one, other = "moe_fp8_experts_static_cap1p0", "moe_fp8_experts_static_cap0p0"
    all_legs = json.loads(program("plan", "capacity", "--blocks", "4", "--json").out)
    two_legs = json.loads(program("plan", "capacity", "--blocks", "4", "--legs", f"{one},{other}", "--json").out)
    assert two_legs["smallest_effect_pct"] > 2 * all_legs["smallest_effect_pct"]
    assert "nothing to compare" in program("plan", "capacity", "--blocks", "4", "--legs", one).out
