"""What an experiment says about its gates and its legs, from the blocks that are complete.

The family is all legs that run; the looks come after every complete block, up to a maximum that the plan fixes. A leg
that is missing from a block, or must not be compared there, drops out of that block. Every other leg is judged against
the baseline in speed; the candidate alone decides the gates. Nothing binding is said of single runs.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from sweeps.records.documents import COMPLETED_STATES, SETTLED_STATES
from sweeps.results.decisions.boundaries import FIRST_LOOK
from sweeps.results.decisions.bounds import Bounded, maximum_at_most, mean_at_most, own_mean_at_most
from sweeps.results.decisions.contrasts import Floats
from sweeps.results.decisions.looks import NOT_RUN, LegFinding, findings, looks_after
from sweeps.results.decisions.reach import boundary, floor_of
from sweeps.results.measures.compare import differing_code, why_barred, why_unusable
from sweeps.results.measures.equal_time import loss_ratio_at_equal_time
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.spec.errors import GateFailed, GateUndecided
from sweeps.spec.legs import Leg
from sweeps.spec.metrics import METRIC, Metric
from sweeps.spec.parts import Gate

Word = Literal["IMPROVED", "EQUIVALENT", "REGRESSED", "HOLDS", "EXCEEDED", "INCONCLUSIVE", "ADVISORY", "INVALID"]
Outcome = Literal["PASS", "FAIL", "UNDECIDED"]

SMALL = 0.005  # an improvement below this is called small
SPEED = "tok_per_sec"
_UNSTEADY = "the baseline varies far more than the other legs, or the looks contradict each other"
_PASSES, _FAILS = ("IMPROVED", "HOLDS"), ("REGRESSED", "EXCEEDED", "EQUIVALENT")


@dataclass(frozen=True, kw_only=True)
class LegVerdict:
    """One leg against another in one metric; ratio and limits are leg / reference."""

    leg: Leg
    reference: Leg
    metric: Metric
    word: Word
    finding: LegFinding
    reason: str | None = None  # why it is ADVISORY or INVALID

    @property
    def is_small(self) -> bool:
        """True if it is an improvement that few would notice."""
        ratio = self.finding.ratio
        return self.word == "IMPROVED" and ratio is not None and abs(math.log(ratio)) < math.log1p(SMALL)


@dataclass(frozen=True, kw_only=True)
class GateVerdict:
    """One gate, judged for the candidate. Values are ratios to the reference, or the candidate's own without one."""

    gate: Gate
    leg: Leg
    reference: Leg | None
    metric: Metric
    word: Word
    value: float | None
    low: float | None
    high: float | None
    num_blocks: int
    decided_after: int | None
    reason: str | None = None
    is_small: bool = False

    @property
    def outcome(self) -> Outcome:
        """Whether the gate holds."""
        if self.word in _PASSES:
            return "PASS"
        return "FAIL" if self.word in _FAILS else "UNDECIDED"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """All that can be said of an experiment now."""

    num_complete: int  # blocks
    num_planned: int
    max_blocks: int
    floor_sd: float
    diverged: str | None  # why the candidate has learnt nothing, if so; then it fails whatever its gates ask
    gates: tuple[GateVerdict, ...]
    legs: tuple[LegVerdict, ...]  # in speed, against the baseline, in plan order

    @property
    def outcome(self) -> Outcome:
        """FAIL if any gate failed, PASS if there are gates and every one holds."""
        outcomes = [gate.outcome for gate in self.gates]
        if "FAIL" in outcomes or self.diverged is not None:
            return "FAIL"
        return "PASS" if outcomes and set(outcomes) == {"PASS"} else "UNDECIDED"

    @property
    def exit_code(self) -> int:
        """0, or that of the error that says why not."""
        return {"PASS": 0, "FAIL": GateFailed.exit_code, "UNDECIDED": GateUndecided.exit_code}[self.outcome]

    @property
    def is_decided(self) -> bool:
        """True if no further block can change the outcome: all is decided, or the blocks are used up."""
        return self.outcome != "UNDECIDED" or self.num_complete >= self.max_blocks

    def of_leg(self, name: str) -> LegVerdict:
        """The verdict on a leg by its name."""
        return next(verdict for verdict in self.legs if verdict.leg.name == name)


def judge(snapshot: Snapshot, floor_sd: float | None = None) -> Judgement:
    """The judgement on an experiment.

    `floor_sd`: the smallest sd of ln(dt) between runs that is believed; without it that of the calibration that fits.
    """
    if floor_sd is None:
        floor_sd = floor_of(snapshot.calibration)
    table = _Table(snapshot, floor_sd)
    return Judgement(
        num_complete=table.num_complete,
        num_planned=snapshot.plan.num_blocks,
        max_blocks=table.max_blocks,
        floor_sd=floor_sd,
        diverged=_why_diverged(snapshot),
        gates=tuple(_gate_verdict(table, gate) for gate in snapshot.plan.gates),
        legs=tuple(
            table.verdict(leg, snapshot.plan.baseline, METRIC[SPEED])
            for leg in snapshot.plan.legs
            if leg.role != "baseline"
        ),
    )


def speed_table(snapshot: Snapshot, floor_sd: float) -> Floats:
    """ln(tok/s) of every leg in every complete block (R, K), as the verdicts see it; nan for gaps."""
    table = _Table(snapshot, floor_sd)
    return table.values(METRIC[SPEED], snapshot.plan.baseline, logs=True)[: table.num_complete]


def _why_diverged(snapshot: Snapshot) -> str | None:
    candidate = snapshot.plan.candidate
    trials = snapshot.of_leg(candidate.name) if candidate is not None else []
    return next((trial.diverged for trial in trials if trial.diverged), None)


class _Table:
    """The runs of all blocks as one array per metric and reference."""

    def __init__(self, snapshot: Snapshot, floor_sd: float) -> None:
        self.snapshot, self.floor_sd = snapshot, floor_sd
        self.legs = snapshot.plan.family
        self.max_blocks = snapshot.plan.max_blocks
        self.blocks = list(range(1, snapshot.plan.num_blocks + 1))
        self._found: dict[tuple[str, str], list[LegFinding]] = {}

    @cached_property
    def num_complete(self) -> int:
        """How many blocks are complete, from the first on."""
        for block in self.blocks:
            trials = [trial for trial in self.snapshot.trials if trial.trial.block == block]
            if not trials or any(trial.state not in SETTLED_STATES for trial in trials):
                return block - 1
        return len(self.blocks)

    @property
    def looks(self) -> range:
        return looks_after(self.num_complete, self.max_blocks)

    def index(self, leg: Leg) -> int:
        return [other.name for other in self.legs].index(leg.name)

    def values(self, metric: Metric, reference: Leg, *, logs: bool) -> Floats:
        """(R, K): each leg in each block, nan if it has no run there that `reference` can be compared with."""
        rows = [[self._value(metric, leg, reference, block, logs) for leg in self.legs] for block in self.blocks]
        return np.array(rows, dtype=np.float64).reshape(len(self.blocks), len(self.legs))

    def _value(self, metric: Metric, leg: Leg, reference: Leg, block: int, logs: bool) -> float:
        trial, other = self.trial(leg, block), self.trial(reference, block)
        if trial is None or trial.state not in COMPLETED_STATES:
            return math.nan
        if why_unusable(trial) or (other is not None and other is not trial and why_barred(metric, trial, other)):
            return math.nan
        value = _pair_value(trial, other) if metric.is_of_pairs else trial.measures[metric.name]
        if value is None or not math.isfinite(value) or (logs and value <= 0):
            return math.nan
        return math.log(value) if logs else value

    def trial(self, leg: Leg, block: int) -> TrialSnapshot | None:
        return next((t for t in self.snapshot.of_leg(leg.name) if t.trial.block == block), None)

    def floor(self, metric: Metric) -> float:
        """Only times are known to vary by more than a few runs show."""
        return self.floor_sd if metric.read.over == "window" else 0.0

    def verdict(self, leg: Leg, reference: Leg, metric: Metric) -> LegVerdict:
        if leg.name not in [other.name for other in self.legs]:
            return LegVerdict(leg=leg, reference=reference, metric=metric, word="INCONCLUSIVE", finding=NOT_RUN)
        key = (metric.name, reference.name)
        if key not in self._found:
            values = self.values(metric, reference, logs=True)
            self._found[key] = findings(
                values, self.index(reference), self.max_blocks, self.floor(metric), self.num_complete
            )
        finding = self._found[key][self.index(leg)]
        invalid = self.why_invalid(leg, reference, metric)
        advisory = self.why_advisory(leg, reference, finding.num_blocks)
        word: Word = _said(finding, metric)
        if word == "INVALID" or (invalid and not finding.num_blocks):
            word, reason = "INVALID", invalid or _UNSTEADY
        elif advisory and finding.num_blocks:
            word, reason = "ADVISORY", advisory
        else:
            reason = invalid
        return LegVerdict(leg=leg, reference=reference, metric=metric, word=word, finding=finding, reason=reason)

    def why_invalid(self, leg: Leg, reference: Leg, metric: Metric) -> str | None:
        """Why the two cannot be compared in some block, if so."""
        reasons: list[str] = []
        for block in self.blocks:
            one, other = self.trial(leg, block), self.trial(reference, block)
            if one is not None and other is not None and one.state == other.state == "completed":
                reasons += why_barred(metric, one, other)
        return ", ".join(dict.fromkeys(reasons)) or None

    def why_no_ratio(self, reference: Leg, metric: Metric) -> str | None:
        """Why no leg has a ratio to the reference, if all of its values are 0 or below."""
        if metric.is_of_pairs:
            return None
        values = [t.measures[metric.name] for t in self.snapshot.of_leg(reference.name) if t.state in COMPLETED_STATES]
        known = [value for value in values if value is not None]
        if not known or max(known) > 0:
            return None
        return f"{metric.name} of {reference.name} is 0, and nothing is a ratio of that: bound the value, versus=None"

    def why_advisory(self, leg: Leg, reference: Leg, num_blocks: int) -> str | None:
        """Why what is found may not be called a verdict, if so."""
        logs = [one.name for one in (leg, reference) if any(t.imported for t in self.snapshot.of_leg(one.name))]
        if logs:
            return f"{' and '.join(dict.fromkeys(logs))} {'was' if len(set(logs)) == 1 else 'were'} read from a log"
        if num_blocks < min(FIRST_LOOK, self.max_blocks) and self.snapshot.plan.num_blocks < FIRST_LOOK:
            return f"{num_blocks} of the {FIRST_LOOK} blocks that a verdict needs"
        code = differing_code(self.snapshot, leg.name, reference.name)
        return f"the code differs: {', '.join(code)}" if code else None


def _pair_value(trial: TrialSnapshot, other: TrialSnapshot | None) -> float | None:
    """A trial over the reference of its block; 1 for the reference itself."""
    if other is None or other is trial:
        return None if other is None else 1.0
    return loss_ratio_at_equal_time(trial, other) if other.state in COMPLETED_STATES else None


def _said(finding: LegFinding, metric: Metric) -> Word:
    if finding.finding == "HIGHER":
        return "IMPROVED" if metric.better == "higher" else "REGRESSED"
    if finding.finding == "LOWER":
        return "REGRESSED" if metric.better == "higher" else "IMPROVED"
    return finding.finding


def _gate_verdict(table: _Table, gate: Gate) -> GateVerdict:
    plan, metric = table.snapshot.plan, METRIC[gate.metric]
    candidate = plan.candidate
    assert candidate is not None, "a sweep with gates has a candidate"
    reference = _reference(table, gate)
    if gate.improves is not None and reference is not None and metric.read.statistic != "highest":
        return _improves(table, gate, candidate, reference, metric)
    bounded = _bounded(table, gate, candidate, reference, metric)
    word: Word = bounded.held
    reason = table.why_invalid(candidate, reference, metric) if reference is not None else None
    if reference is not None and not bounded.num_blocks:
        reason = reason or table.why_no_ratio(reference, metric)
    advisory = table.why_advisory(candidate, reference or candidate, bounded.num_blocks)
    if metric.name == "loss" and any(trial.diverged for trial in table.snapshot.of_leg(candidate.name)):
        word, reason = "EXCEEDED", f"{candidate.name} diverged"
    elif reason and not bounded.num_blocks:
        word = "INVALID"
    elif advisory and bounded.num_blocks:
        word, reason = "ADVISORY", advisory
    elif gate.improves is not None and word in ("HOLDS", "EXCEEDED"):
        word = "IMPROVED" if word == "HOLDS" else "REGRESSED"
    return GateVerdict(
        gate=gate,
        leg=candidate,
        reference=reference,
        metric=metric,
        word=word,
        value=bounded.value,
        low=bounded.low,
        high=bounded.high,
        num_blocks=bounded.num_blocks,
        decided_after=bounded.decided_after,
        reason=reason,
    )


def _improves(table: _Table, gate: Gate, candidate: Leg, reference: Leg, metric: Metric) -> GateVerdict:
    found = table.verdict(candidate, reference, metric)
    return GateVerdict(
        gate=gate,
        leg=candidate,
        reference=reference,
        metric=metric,
        word=found.word,
        value=found.finding.ratio,
        low=found.finding.low,
        high=found.finding.high,
        num_blocks=found.finding.num_blocks,
        decided_after=found.finding.decided_after,
        reason=found.reason,
        is_small=found.is_small,
    )


def _reference(table: _Table, gate: Gate) -> Leg | None:
    if gate.reference is None:
        return None
    if gate.reference == "baseline":
        return table.snapshot.plan.baseline
    return next(leg for leg in table.legs if leg.name == gate.reference)


def _bounded(table: _Table, gate: Gate, candidate: Leg, reference: Leg | None, metric: Metric) -> Bounded:
    """`at_least` is `at_most` of the opposite: both sides change their sign."""
    bound, sign = (gate.at_most, 1.0) if gate.at_most is not None else (gate.at_least, -1.0)
    if metric.read.statistic == "highest" and reference is not None:
        strict = math.nextafter(1.0, 0.0)
        return _exact(table, candidate, reference, metric, strict if bound is None else bound, sign)
    assert bound is not None
    leg = table.index(candidate)
    if reference is None:
        values = sign * table.values(metric, candidate, logs=False)
        return _turned(
            own_mean_at_most(values, leg, sign * bound, looks=table.looks, max_blocks=table.max_blocks),
            sign,
            logs=False,
        )
    values = sign * table.values(metric, reference, logs=True)
    limit, floor = sign * math.log(bound), table.floor(metric)
    found = mean_at_most(
        values, table.index(reference), leg, limit, looks=table.looks, max_blocks=table.max_blocks, floor_sd=floor
    )
    return _turned(found, sign, logs=True)


def _exact(table: _Table, candidate: Leg, reference: Leg, metric: Metric, bound: float, sign: float) -> Bounded:
    values = table.values(metric, reference, logs=False)
    columns = [[float(v) for v in values[:, table.index(leg)] if math.isfinite(v)] for leg in (candidate, reference)]
    found = maximum_at_most(columns[0], columns[1], bound)
    if sign < 0 and found.value is not None:
        held = "HOLDS" if found.value >= bound else "EXCEEDED"
        return replace(found, held=held)
    return found


def _turned(found: Bounded, sign: float, *, logs: bool) -> Bounded:
    """Limits in the unit of the gate: of logarithms the ratio, of a changed sign the other way round."""

    def back(value: float | None) -> float | None:
        if value is None or not math.isfinite(value):
            return None
        return math.exp(sign * value) if logs else sign * value

    low, high = (back(found.low), back(found.high)) if sign > 0 else (back(found.high), back(found.low))
    return Bounded(
        held=found.held,
        value=back(found.value),
        low=low,
        high=high,
        num_blocks=found.num_blocks,
        decided_after=found.decided_after,
    )


def blocks_to_decide(judgement: Judgement, verdict: LegVerdict, num_legs: int) -> int | None:
    """After how many blocks a leg would be decided if it continues as it did; None if not within the maximum."""
    finding = verdict.finding
    if finding.ratio is None or finding.standard_error is None or not finding.num_blocks:
        return None
    effect, one_block = abs(math.log(finding.ratio)), finding.standard_error * math.sqrt(finding.num_blocks)
    for blocks in range(max(FIRST_LOOK, judgement.num_complete + 1), judgement.max_blocks + 1):
        if effect > boundary(num_legs, judgement.max_blocks, blocks) * one_block / math.sqrt(blocks):
            return blocks
    return None
