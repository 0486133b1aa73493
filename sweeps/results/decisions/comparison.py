"""Two experiments: each leg of the second against the same leg of the first, in speed, over one common baseline.

Two experiments ran at two times, and what differs between times (the hour, the host, the temperature) does not cancel
as it does inside a block. So a comparison is advice, unless the experiments share blocks: blocks of which the second
took the baseline's run from the first. Loss and memory are plain ratios beside it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any

from nanochat.config import get_field
from sweeps.results.decisions.boundaries import ALPHA, FIRST_LOOK
from sweeps.results.decisions.judgement import Outcome, Word
from sweeps.results.decisions.looks import EQUIVALENCE_ALPHA, EQUIVALENCE_MARGIN
from sweeps.results.decisions.reach import floor_of
from sweeps.results.decisions.student import upper_quantile
from sweeps.results.measures.compare import geometric_mean, why_barred, why_unusable
from sweeps.results.measures.conditions import code_differences
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.spec.errors import GateFailed, GateUndecided, UsageError
from sweeps.spec.legs import difference
from sweeps.spec.metrics import METRIC

SPEED_METRIC = METRIC["tok_per_sec"]
BESIDE = ("peak_mib", "loss")
_OF_THE_TRIAL = ("run.name", "run.seed")
_PASSES = ("IMPROVED", "EQUIVALENT")


@dataclass(frozen=True, kw_only=True)
class LegPair:
    """One leg of both experiments. Ratios are the second over the first, speed unless said."""

    leg: str
    word: Word
    ratio: float | None
    low: float | None
    high: float | None
    first_over_baseline: float | None  # the baseline of the first experiment, as it ran there
    second_over_baseline: float | None  # over the same runs
    num_first: int  # blocks
    num_second: int
    num_shared: int
    beside: dict[str, float | None]  # loss and memory
    other_fields: tuple[str, ...]  # config fields in which the legs of this name differ
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class ExperimentComparison:
    """All legs that two experiments have in common."""

    first: str
    second: str
    baseline: str
    pairs: tuple[LegPair, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    other_code: tuple[str, ...]

    @property
    def outcome(self) -> Outcome:
        """FAIL if a leg regressed, PASS if every one is decided otherwise."""
        words = {pair.word for pair in self.pairs}
        if "REGRESSED" in words:
            return "FAIL"
        return "PASS" if words and words <= set(_PASSES) else "UNDECIDED"

    @property
    def exit_code(self) -> int:
        """As of `gate`."""
        return {"PASS": 0, "FAIL": GateFailed.exit_code, "UNDECIDED": GateUndecided.exit_code}[self.outcome]


def compare_experiments(first: Snapshot, second: Snapshot) -> ExperimentComparison:
    """The comparison. Raises UsageError for an experiment with itself, and if no leg is in both."""
    if first.uri == second.uri and first.manifest.id == second.manifest.id:
        raise UsageError(f"{first.manifest.id} is given twice; `nanochat-sweep gate` judges a single experiment")
    here, there = ([leg.name for leg in snapshot.plan.legs] for snapshot in (first, second))
    both = [name for name in here if name in there]
    if not both:
        raise UsageError(
            f"{first.manifest.id} and {second.manifest.id} have no leg in common: {', '.join(here[:3])} against "
            f"{', '.join(there[:3])}"
        )
    shared = _shared_blocks(first, second)
    pairs = tuple(_pair(first, second, name, shared, len(both)) for name in both)
    trials = [t for name in both for t in zip(_usable(first, name), _usable(second, name), strict=False)]
    return ExperimentComparison(
        first=first.manifest.id,
        second=second.manifest.id,
        baseline=first.plan.baseline.name,
        pairs=pairs,
        only_first=tuple(name for name in here if name not in there),
        only_second=tuple(name for name in there if name not in here),
        other_code=tuple(dict.fromkeys(text for pair in trials for text in code_differences(*pair))),
    )


def _pair(first: Snapshot, second: Snapshot, name: str, shared: Sequence[int], num_pairs: int) -> LegPair:
    mine, theirs = _usable(first, name), _usable(second, name)
    base = _logs(_usable(first, first.plan.baseline.name))
    barred = list(dict.fromkeys(text for a in mine for b in theirs for text in why_barred(SPEED_METRIC, a, b)))
    here, there = _logs(mine), _logs(theirs)
    in_both = [block for block in shared if block in here and block in there]
    word, ratio, low, high, reason = _judged(first, second, name, (here, there), in_both, num_pairs)
    if barred:
        word, ratio, low, high, reason = "INVALID", None, None, None, ", ".join(barred)
    return LegPair(
        leg=name,
        word=word,
        ratio=ratio,
        low=low,
        high=high,
        first_over_baseline=_quotient(here, base),
        second_over_baseline=None if barred else _quotient(there, base),
        num_first=len(here),
        num_second=len(there),
        num_shared=len(in_both),
        beside={metric: _plain_ratio(mine, theirs, metric) for metric in BESIDE},
        other_fields=_other_fields(first, second, name),
        reason=reason,
    )


_Values = dict[int, float]  # block -> ln(tok/s)
_Judged = tuple[Word, float | None, float | None, float | None, str | None]


def _judged(
    first: Snapshot,
    second: Snapshot,
    name: str,
    values: tuple[_Values, _Values],
    shared: Sequence[int],
    num_pairs: int,
) -> _Judged:
    here, there = values
    if not here or not there:
        return "INCONCLUSIVE", None, None, None, "not measured in both"
    if all(_identity(first, name, block) == _identity(second, name, block) for block in there):
        return "EQUIVALENT", 1.0, 1.0, 1.0, "the same runs"
    floor_sd = max(floor_of(first.calibration), floor_of(second.calibration))
    if len(shared) < FIRST_LOOK:
        mean = fmean(there.values()) - fmean(here.values())
        low, high = _apart(list(here.values()), list(there.values()), floor_sd, num_pairs)
        return (
            "ADVISORY",
            _exp(mean),
            _exp(low),
            _exp(high),
            "the experiments share no blocks"
            if not shared
            else (f"{len(shared)} of the {FIRST_LOOK} shared blocks that a verdict needs"),
        )
    return _within([there[block] - here[block] for block in shared], floor_sd, num_pairs, first.plan.max_blocks)


def _apart(here: Sequence[float], there: Sequence[float], floor_sd: float, num_pairs: int) -> tuple[float, float]:
    """Limits of the difference of two means at two times, 99 % over all pairs (Welch); infinite with single runs."""
    if min(len(here), len(there)) < 2:
        return -math.inf, math.inf
    parts = [(max(variance(side), floor_sd**2) / len(side), len(side) - 1) for side in (here, there)]
    total = sum(part for part, _ in parts)
    df = total**2 / sum(part**2 / df for part, df in parts)
    width = upper_quantile(ALPHA / 2 / num_pairs, df) * math.sqrt(total)
    mean = fmean(there) - fmean(here)
    return mean - width, mean + width


def _within(differences: Sequence[float], floor_sd: float, num_pairs: int, max_blocks: int) -> _Judged:
    """The verdict from shared blocks; the looks of all pairs share the error rate (Bonferroni)."""
    num_looks = max(1, max_blocks - FIRST_LOOK + 1)
    df, mean = len(differences) - 1, fmean(differences)
    error = math.sqrt(max(variance(differences), 2 * floor_sd**2) / len(differences))
    width = upper_quantile(ALPHA / 2 / (num_pairs * num_looks), df) * error
    narrow = upper_quantile(EQUIVALENCE_ALPHA / num_looks, df) * error
    word: Word = "INCONCLUSIVE"
    if abs(mean) > width:
        word = "IMPROVED" if mean > 0 else "REGRESSED"
    elif abs(mean) + narrow < math.log1p(EQUIVALENCE_MARGIN):
        word = "EQUIVALENT"
    return word, _exp(mean), _exp(mean - width), _exp(mean + width), None


def _shared_blocks(first: Snapshot, second: Snapshot) -> list[int]:
    """The blocks whose run of the common baseline is one and the same."""
    name = first.plan.baseline.name
    blocks = {trial.trial.block for trial in _usable(first, name)} & {t.trial.block for t in _usable(second, name)}
    return sorted(block for block in blocks if _identity(first, name, block) == _identity(second, name, block))


def _identity(snapshot: Snapshot, leg: str, block: int) -> tuple[str, str, int] | None:
    """Which run a trial is: the experiment that ran it, its leg, its block."""
    trial = next((t for t in snapshot.of_leg(leg) if t.trial.block == block), None)
    return None if trial is None else (trial.origin.experiment if trial.origin else snapshot.manifest.id, leg, block)


def _usable(snapshot: Snapshot, leg: str) -> list[TrialSnapshot]:
    return [t for t in snapshot.of_leg(leg) if t.state == "completed" and why_unusable(t) is None]


def _logs(trials: Sequence[TrialSnapshot]) -> _Values:
    values = {trial.trial.block: trial.measures[SPEED_METRIC.name] for trial in trials}
    return {block: math.log(v) for block, v in values.items() if v is not None and 0 < v < math.inf}


def _quotient(values: _Values, base: _Values) -> float | None:
    return _exp(fmean(values.values()) - fmean(base.values())) if values and base else None


def _plain_ratio(mine: Sequence[TrialSnapshot], theirs: Sequence[TrialSnapshot], metric: str) -> float | None:
    """Of the blocks that both have, which have the same seeds; after equally many steps."""
    by_block = {trial.trial.block: trial for trial in theirs}
    ratios: list[float] = []
    for trial in mine:
        other = by_block.get(trial.trial.block)
        if other is None or other.measures.last_step != trial.measures.last_step:
            continue
        a, b = trial.measures[metric], other.measures[metric]
        if a is not None and b is not None and a > 0 and b > 0 and not why_barred(METRIC[metric], trial, other):
            ratios.append(b / a)
    return geometric_mean(ratios)


def _other_fields(first: Snapshot, second: Snapshot, name: str) -> tuple[str, ...]:
    if not (first.knows_config_of(name) and second.knows_config_of(name)):
        return ("the config of a log without its command line is not known",)
    here, there = (next(leg.config for leg in s.plan.legs if leg.name == name) for s in (first, second))
    fields = [path for path in difference(there, here) if path not in _OF_THE_TRIAL]
    return tuple(f"{path} {get_field(here, path)!r} against {get_field(there, path)!r}" for path in fields)


def _exp(value: float) -> float | None:
    return math.exp(value) if math.isfinite(value) and abs(value) < 700 else None


def comparison_json(found: ExperimentComparison) -> dict[str, Any]:
    """Everything that `compare` knows; null for what was not measured."""
    return {
        "schema": "nanochat-sweep/compare/1",
        "first": found.first,
        "second": found.second,
        "baseline": found.baseline,
        "outcome": found.outcome,
        "exit_code": found.exit_code,
        "legs": [
            {
                "leg": pair.leg,
                "metric": SPEED_METRIC.name,
                "verdict": pair.word,
                "ratio": pair.ratio,
                "low": pair.low,
                "high": pair.high,
                "first_over_baseline": pair.first_over_baseline,
                "second_over_baseline": pair.second_over_baseline,
                "blocks_first": pair.num_first,
                "blocks_second": pair.num_second,
                "shared_blocks": pair.num_shared,
                **{f"{name}_ratio": value for name, value in pair.beside.items()},
                "other_fields": list(pair.other_fields),
                "reason": pair.reason,
            }
            for pair in found.pairs
        ],
        "only_first": list(found.only_first),
        "only_second": list(found.only_second),
        "other_code": list(found.other_code),
    }
