"""What an experiment says about its gates: from blocks that are complete, comparable and enough."""

import dataclasses
import json
import math
import re
from typing import Any

import pytest

from sweeps.records.documents import AttemptError
from sweeps.records.steps import Steps
from sweeps.results.decisions.conclusion import conclude
from sweeps.results.decisions.judgement import Judgement, judge
from sweeps.results.decisions.listing import gate_json, gate_rows, leg_rows
from sweeps.results.decisions.phrase import text_of
from sweeps.results.decisions.reach import smallest_effect
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.spec import Gate
from sweeps.spec.errors import SweepError
from sweeps.spec.plan import choose_legs, make_plan, plan_from_json, plan_to_json
from tests.helpers.judged import FACTS, GATES, judged_experiment, judged_of_plan, judged_sweep
from tests.helpers.rows import row


def words(judgement: Judgement) -> list[str]:
    return [gate.word for gate in judgement.gates]


def sentence(snapshot: Snapshot) -> str:
    found = conclude(snapshot, judge(snapshot))
    return f"{found.word}: {text_of(found.sentence)}"


def test_a_candidate_that_is_faster_and_keeps_its_bounds_passes():
    snapshot = judged_experiment({"cap1": -0.03})
    judgement = judge(snapshot)
    assert (words(judgement), judgement.outcome, judgement.exit_code) == (["IMPROVED", "HOLDS", "HOLDS"], "PASS", 0)
    assert sentence(snapshot).startswith("PASS: Use cap1: +3.")
    assert " tok/s over cap0, peak memory 0 %, within its bound, loss " in sentence(snapshot)
    assert "], within its bound; 16 of 16" in sentence(snapshot)
    assert sentence(snapshot).endswith("; 16 of 16 trials; decided after 3 blocks.")


def test_a_candidate_that_is_not_faster_fails():
    slower = judge(judged_experiment({"cap1": 0.03}))
    assert (slower.gates[0].word, slower.outcome, slower.exit_code) == ("REGRESSED", "FAIL", 3)
    equal = judge(judged_experiment({}))
    assert (equal.gates[0].word, equal.exit_code) == ("EQUIVALENT", 3)


@pytest.mark.parametrize(
    ("losses", "peaks", "word"), [({"cap1": 0.02}, {}, "loss"), ({}, {"cap1": 0.06}, "peak memory")]
)
def test_a_bound_that_is_passed_fails_however_fast_the_candidate_is(
    losses: dict[str, float], peaks: dict[str, float], word: str
):
    snapshot = judged_experiment({"cap1": -0.03}, losses=losses, peaks=peaks)
    assert judge(snapshot).exit_code == 3
    assert sentence(snapshot).startswith(f"FAIL: Do not use cap1: {word} ")


def test_noise_leaves_it_undecided_and_says_what_it_takes():
    snapshot = judged_experiment({"cap1": -0.012}, sd=0.004, num_blocks=3)
    judgement = judge(snapshot)
    assert (judgement.gates[0].word, judgement.exit_code, judgement.is_decided) == ("INCONCLUSIVE", 4, False)
    (step, *_) = conclude(snapshot, judgement).also
    assert "--blocks auto" in text_of(step)


def test_what_it_takes_is_said_in_blocks_and_in_time():
    def timed(trial: TrialSnapshot) -> TrialSnapshot:
        return dataclasses.replace(trial, attempts=[dataclasses.replace(a, run_s=90.0) for a in trial.attempts])

    snapshot = judged_experiment({"cap1": -0.012}, sd=0.004, num_blocks=3, change=timed)
    (step, *_) = conclude(snapshot, judge(snapshot)).also
    found = re.search(r"about (\d) more blocks? \((\d+) min\) should decide it", text_of(step))
    assert found is not None, text_of(step)
    assert int(found[2]) == 6 * int(found[1])  # four legs of 90 s


def test_legs_that_a_launch_leaves_out_cost_the_others_no_certainty():
    chosen = choose_legs(make_plan(judged_sweep(), 4), ["cap0", "cap1"])
    alone = dataclasses.replace(chosen, legs=tuple(leg for leg in chosen.legs if leg.name in ("cap0", "cap1")))
    judgements = [judge(judged_of_plan(plan, {"cap1": -0.01}, sd=0.002)) for plan in (chosen, alone)]
    assert judgements[0].gates == judgements[1].gates
    assert judgements[0].of_leg("cap1") == judgements[1].of_leg("cap1")
    left_out = judgements[0].of_leg("cap1.25")
    assert (left_out.word, left_out.finding.ratio, left_out.finding.num_blocks) == ("INCONCLUSIVE", None, 0)
    assert [name for name, *_ in leg_rows(judgements[0])[1:]] == ["cap1"]


@pytest.mark.parametrize("num_blocks", [1, 2])
def test_fewer_than_three_blocks_are_advice(num_blocks: int):
    judgement = judge(judged_experiment({"cap1": -0.03}, num_blocks=num_blocks))
    assert set(words(judgement)) == {"ADVISORY"}
    assert {leg.word for leg in judgement.legs} == {"ADVISORY"}
    assert judgement.exit_code == 4


def test_a_block_counts_once_all_of_its_trials_are_over():
    def pending(trial: TrialSnapshot) -> TrialSnapshot:
        is_last = trial.trial.block == 4 and trial.trial.leg.name == "bf16"
        return dataclasses.replace(trial, state="pending") if is_last else trial

    judgement = judge(judged_experiment({"cap1": -0.03}, change=pending))
    assert (judgement.num_complete, judgement.of_leg("cap1").finding.num_blocks) == (3, 3)


def test_a_failed_leg_drops_out_of_its_block_and_hurts_no_other():
    def failed(trial: TrialSnapshot) -> TrialSnapshot:
        is_it = trial.trial.block == 2 and trial.trial.leg.name == "cap1.25"
        return dataclasses.replace(trial, state="failed", steps=Steps()) if is_it else trial

    judgement = judge(judged_experiment({"cap1": -0.03}, change=failed))
    assert (judgement.num_complete, judgement.exit_code) == (4, 0)
    assert judgement.of_leg("cap1.25").finding.num_blocks == 3


def test_a_control_that_beats_the_candidate_is_named():
    snapshot = judged_experiment({"cap1": -0.03, "bf16": -0.1})
    (other, *_) = conclude(snapshot, judge(snapshot)).also
    assert text_of(other).startswith("The control bf16 is faster than the candidate: +11")
    assert text_of(other).endswith("its lead is advisory.")


def test_other_hardware_is_not_judged_in_speed():
    def elsewhere(trial: TrialSnapshot) -> TrialSnapshot:
        if trial.trial.leg.name != "cap1":
            return trial
        attempts = [dataclasses.replace(a, facts={**FACTS, "device_name": "NVIDIA H200"}) for a in trial.attempts]
        return dataclasses.replace(trial, attempts=attempts)

    judgement = judge(judged_experiment({"cap1": -0.03}, change=elsewhere))
    assert words(judgement) == ["INVALID", "INVALID", "HOLDS"]
    assert judgement.gates[0].reason == "NVIDIA H200 against NVIDIA H100"
    assert judgement.exit_code == 4


def test_other_code_makes_it_advice():
    def newer(trial: TrialSnapshot) -> TrialSnapshot:
        commit = "b" * 40 if trial.trial.leg.name == "cap1" else "a" * 40
        return dataclasses.replace(trial, attempts=[dataclasses.replace(a, git_commit=commit) for a in trial.attempts])

    judgement = judge(judged_experiment({"cap1": -0.03}, change=newer))
    assert set(words(judgement)) == {"ADVISORY"}
    assert (judgement.gates[0].reason or "").startswith("the code differs: commit bbbbbbbbbb against")
    assert judgement.of_leg("cap1.25").word == "EQUIVALENT"


def test_a_candidate_that_diverged_fails_its_loss_bound():
    judgement = judge(judged_experiment({"cap1": -0.03}, losses={"cap1": math.nan}))
    assert (judgement.gates[2].word, judgement.gates[2].reason) == ("EXCEEDED", "cap1 diverged")
    assert judgement.exit_code == 3


def test_without_gates_a_sweep_in_which_nothing_can_be_compared_is_invalid():
    snapshot = judged_experiment({}, losses=dict.fromkeys(("cap0", "cap1", "cap1.25", "bf16"), math.nan), gates=())
    assert sentence(snapshot) == "INVALID: No leg can be compared with cap0: cap1 diverged, cap0 diverged."


def test_without_gates_slower_legs_are_called_that():
    assert sentence(judged_experiment({"cap1": 0.05, "cap1.25": 0.05, "bf16": 0.05}, gates=())).startswith(
        "REGRESSED: "
    )
    assert sentence(judged_experiment({"cap1": 0.05}, gates=())).startswith("EQUIVALENT: ")


@pytest.mark.parametrize("gates", [(), GATES])
def test_legs_without_timing_say_why_and_not_that_more_blocks_help(gates: tuple[Gate, ...]):
    def cold(trial: TrialSnapshot) -> TrialSnapshot:
        rows = [dataclasses.replace(each, flags=("warmup",)) for each in trial.steps.rows()]
        return dataclasses.replace(trial, steps=Steps.of(rows))

    snapshot = judged_experiment({}, change=cold, gates=gates)
    found = conclude(snapshot, judge(snapshot))
    said = " ".join(text_of(phrase) for phrase in (found.sentence, *found.also))
    assert "cap0 has no timing (0 of 40 steps count, the window has 10)" in said
    assert "--blocks auto" not in said


def test_where_every_leg_failed_the_cause_leads():
    def failed(trial: TrialSnapshot) -> TrialSnapshot:
        error = AttemptError(type="OutOfMemoryError", message="lower data.device_batch_size", traceback="")
        attempts = [dataclasses.replace(a, error=error, end="failed") for a in trial.attempts]
        return dataclasses.replace(trial, state="failed", steps=Steps(), attempts=attempts)

    snapshot = judged_experiment({}, change=failed)
    assert sentence(snapshot) == "FAILED: All 4 legs failed; " + snapshot.trials[0].trial.leg.name + (
        ": OutOfMemoryError: lower data.device_batch_size"
    )


def test_bounds_can_be_on_the_candidates_own_value_and_from_below():
    gates = (Gate("loss", at_most=4.1, versus=None), Gate("tok_per_sec", at_least=1.01), Gate("loss", at_least=0.9))
    judgement = judge(judged_experiment({"cap1": -0.03}, gates=gates))
    assert words(judgement) == ["HOLDS", "HOLDS", "HOLDS"]
    assert judgement.gates[0].value == pytest.approx(4.0, abs=0.01)
    low, value, high = judgement.gates[1].low, judgement.gates[1].value, judgement.gates[1].high
    assert low is not None
    assert value is not None
    assert high is not None
    assert low < value < high
    assert words(judge(judged_experiment({"cap1": 0.03}, gates=gates)))[1] == "EXCEEDED"


def test_a_gate_may_name_another_leg():
    gates = (Gate("tok_per_sec", improves="bf16"),)
    judgement = judge(judged_experiment({"cap1": -0.03, "bf16": -0.1}, gates=gates))
    assert (words(judgement), judgement.gates[0].reference and judgement.gates[0].reference.name) == (
        ["REGRESSED"],
        "bf16",
    )


def test_the_listing_and_the_json_hold_every_gate_and_leg():
    snapshot = judged_experiment({"cap1": -0.03})
    judgement = judge(snapshot)
    assert [row[0] for row in gate_rows(judgement)[1:]] == ["tok/s", "peak MiB", "loss"]
    assert [row[0] for row in leg_rows(judgement)[1:]] == ["cap1", "cap1.25", "bf16"]
    told: dict[str, Any] = json.loads(
        json.dumps(gate_json(snapshot, judgement, conclude(snapshot, judgement)), allow_nan=False)
    )
    assert (told["schema"], told["outcome"], told["exit_code"]) == ("nanochat-sweep/gate/1", "PASS", 0)
    assert [gate["verdict"] for gate in told["gates"]] == ["IMPROVED", "HOLDS", "HOLDS"]


def test_the_smallest_effect_that_blocks_can_tell():
    at = [smallest_effect(2, blocks, 8, 0.0015) for blocks in (2, 3, 4, 5)]
    assert at[0] is None
    assert [round((ratio - 1) * 100, 2) for ratio in at[1:] if ratio] == pytest.approx([2.5, 1.0, 0.65], abs=0.06)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of"),
        ({"at_most": 1.0, "at_least": 0.9}, "exactly one of"),
        ({"at_least": -1.0}, "positive ratio"),
        ({"at_most": math.inf}, "finite number"),
    ],
)
def test_a_gate_that_cannot_be_is_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(SweepError, match=message):
        Gate("loss", **arguments)


def test_the_maximum_of_blocks_is_part_of_the_plan_and_older_plans_have_one():
    plan = make_plan(judged_sweep(), 2)
    assert (
        plan.max_blocks,
        make_plan(judged_sweep(), 10).max_blocks,
        make_plan(judged_sweep(), 2, max_blocks=5).max_blocks,
    ) == (
        8,
        10,
        5,
    )
    values = plan_to_json(plan)
    assert plan_from_json(values).max_blocks == 8
    del values["max_blocks"]
    assert plan_from_json(values).max_blocks == 8


def test_a_leg_whose_gates_hold_but_that_is_no_better_is_not_recommended():
    snapshot = judged_experiment({}, gates=(Gate("peak_mib", at_most=1.05),))
    assert sentence(snapshot).startswith("PASS: Every gate holds, but cap1 is not shown to be better than cap0: ")
    better = judged_experiment({"cap1": -0.03}, gates=(Gate("peak_mib", at_most=1.05),))
    assert sentence(better).startswith("PASS: Use cap1: +3.")
    assert " tok/s over cap0, peak memory 0 %, within its bound; 16 of 16 trials" in sentence(better)


def test_the_lead_over_the_runner_up_is_advice():
    snapshot = judged_experiment({"cap1": -0.03, "cap1.25": -0.02})
    (lead, *_) = conclude(snapshot, judge(snapshot)).also
    assert text_of(lead).startswith("Its lead over the runner-up cap1.25, +1.")
    assert text_of(lead).endswith(" tok/s, is advisory.")


def test_without_gates_the_fastest_leg_is_named_with_its_loss_and_memory():
    snapshot = judged_experiment({"bf16": -0.05, "cap1": -0.03}, gates=(), losses={"bf16": 0.01})
    found = conclude(snapshot, judge(snapshot))
    assert text_of(found.sentence).startswith("Fastest: bf16 (control), +5.")
    assert ", loss +1.0 %, peak memory 0 %; 16 of 16 trials" in text_of(found.sentence)
    none = judged_experiment({}, gates=())
    assert text_of(conclude(none, judge(none)).sentence).startswith("No leg is shown to be faster than cap0; ")


def _failing(leg: str, blocks: range = range(1, 9)) -> Any:
    def fail(trial: TrialSnapshot) -> TrialSnapshot:
        if trial.trial.leg.name != leg or trial.trial.block not in blocks:
            return trial
        error = AttemptError(type="ValueError", message="it broke", traceback="")
        attempts = [dataclasses.replace(a, error=error, end="failed") for a in trial.attempts]
        return dataclasses.replace(trial, state="failed", steps=Steps(), attempts=attempts)

    return fail


def test_a_candidate_or_a_baseline_that_failed_leads_with_its_cause():
    candidate = judged_experiment({}, change=_failing("cap1"))
    assert sentence(candidate) == "FAILED: Do not use cap1: it failed: ValueError: it broke"
    assert judge(candidate).exit_code == 4
    baseline = judged_experiment({}, change=_failing("cap0"))
    assert sentence(baseline) == "FAILED: Nothing can be compared: the baseline cap0 failed: ValueError: it broke"
    (where, *_) = conclude(baseline, judge(baseline)).also
    assert text_of(where).startswith("Its output: `nanochat-sweep logs 20260101_120000_toy cap0-b")


def test_another_leg_that_failed_is_named_with_its_cause():
    snapshot = judged_experiment({"cap1": -0.03}, change=_failing("bf16", range(2, 3)))
    notes = [text_of(phrase) for phrase in conclude(snapshot, judge(snapshot)).also]
    assert "bf16 failed in 1 of 4 blocks: ValueError: it broke" in notes
    assert sentence(snapshot).startswith("PASS: Use cap1")


def test_on_a_cpu_the_json_warns_of_speed_and_of_memory():
    def on_cpu(trial: TrialSnapshot) -> TrialSnapshot:
        attempts = [dataclasses.replace(a, facts={**FACTS, "device": "cpu"}) for a in trial.attempts]
        return dataclasses.replace(trial, attempts=attempts)

    snapshot = judged_experiment({"cap1": -0.03}, change=on_cpu)
    judgement = judge(snapshot)
    (warning,) = gate_json(snapshot, judgement, conclude(snapshot, judgement))["warnings"]
    assert "speed" in warning
    assert "peak memory" in warning


def test_a_gate_on_mfu_never_contradicts_one_on_speed():
    """Steps with spikes, of which a plain mean and a trimmed one make different things."""

    def spiky(trial: TrialSnapshot) -> TrialSnapshot:
        fast = trial.trial.leg.name == "cap1"
        times = [(97.0 if fast else 100.0) * (4 if fast and step % 9 == 0 else 1) for step in range(40)]
        rows = [
            row(s, loss=4.0 if s else 9.0, dt_ms=ms, tok_per_sec=5e5 / ms, bf16_mfu_pct=4e3 / ms)
            for s, ms in enumerate(times)
        ]
        return dataclasses.replace(trial, steps=Steps.of(rows))

    gates = (Gate("tok_per_sec", improves="baseline"), Gate("bf16_mfu_pct", improves="baseline"))
    speed, mfu = judge(judged_experiment({}, gates=gates, change=spiky)).gates
    assert speed.word == mfu.word
    assert mfu.value == pytest.approx(speed.value)


def test_gates_on_routing_validation_and_loss_at_equal_time():
    def routed(trial: TrialSnapshot) -> TrialSnapshot:
        capped = trial.trial.leg.name.startswith("cap1")
        changed = [
            dataclasses.replace(
                r, dropped_pct=3.0 if capped else 0.0, max_vio=0.5, val_bpb=1.0 if r.step == 39 else None
            )
            for r in trial.steps.rows()
        ]
        return dataclasses.replace(trial, steps=Steps.of(changed))

    gates = (
        Gate("dropped_pct", at_most=5, versus=None),
        Gate("dropped_pct", at_most=2, versus=None),
        Gate("dropped_pct", at_most=1.05),
        Gate("max_vio", at_most=1.1),
        Gate("val_bpb", at_most=1.01),
        Gate("loss_at_equal_time", at_most=1.005),
    )
    fields = {"eval.every": 20}
    found = judge(judged_experiment({"cap1": -0.03}, gates=gates, change=routed, fields=fields)).gates
    assert [gate.word for gate in found] == ["HOLDS", "EXCEEDED", "INVALID", "HOLDS", "HOLDS", "HOLDS"]
    assert found[2].reason == "dropped_pct of cap0 is 0, and nothing is a ratio of that: bound the value, versus=None"
    assert found[0].value == pytest.approx(3)


def test_loss_at_equal_time_favours_the_faster_leg():
    """Both learn the same per step; while the loss still falls, more steps in the same time are a lower loss."""

    def still_falling(trial: TrialSnapshot) -> TrialSnapshot:
        rows = [dataclasses.replace(r, loss=9 - 0.1 * r.step) for r in trial.steps.rows()]
        return dataclasses.replace(trial, steps=Steps.of(rows))

    gates = (Gate("loss_at_equal_time", improves="baseline"), Gate("loss", improves="baseline"))
    at_time, at_step = judge(judged_experiment({"cap1": -0.2}, gates=gates, change=still_falling)).gates
    assert (at_time.word, at_step.word) == ("IMPROVED", "EQUIVALENT")


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (Gate("val_bpb", at_most=1.01), "leg cap0 measures no validation loss; set eval.every"),
        (Gate("val_bpb", at_most=4.0, versus=None), "leg cap1 measures no validation loss"),
    ],
)
def test_a_gate_on_what_no_leg_measures_is_refused_before_anything_runs(gate: Gate, message: str):
    with pytest.raises(SweepError, match=message):
        make_plan(judged_sweep((gate,)))
