"""What a calibration amounts to, in sentences: the verdict on the twins, and the floor, or why there is none."""

from sweeps.results.decisions.boundaries import FIRST_LOOK
from sweeps.results.decisions.calibrating import calibration_of, injected_pct, is_calibration
from sweeps.results.decisions.judgement import Judgement, LegVerdict
from sweeps.results.decisions.phrase import interval_of
from sweeps.results.measures.snapshot import Snapshot
from sweeps.spec.words import counted, percent_change


def sentences(snapshot: Snapshot, judgement: Judgement) -> list[str]:
    """One line for the verdict and one for the floor; nothing for an experiment that is not a calibration."""
    if not is_calibration(snapshot) or len(judgement.legs) != 1:
        return []
    return [_verdict(snapshot, judgement.legs[0]), _floor(snapshot)]


def _verdict(snapshot: Snapshot, verdict: LegVerdict) -> str:
    finding, delay = verdict.finding, injected_pct(snapshot)
    value = interval_of(finding.ratio, finding.low, finding.high)
    blocks = counted(finding.num_blocks, "block")
    reason = f" ({verdict.reason})" if verdict.reason else ""
    seen = f"{value} tok/s over {blocks}, {verdict.word}{reason}" if finding.num_blocks else "not measured yet"
    if not delay:
        return f"twins of {verdict.reference.name}: {seen}"
    true = percent_change(1 / (1 + delay / 100))
    found = {"REGRESSED": "found", "IMPROVED": "contradicted"}.get(verdict.word, "not found")
    return f"a delay of {delay:g} %, {true} tok/s, is {found}: {seen}"


def _floor(snapshot: Snapshot) -> str:
    if injected_pct(snapshot) > 0:
        return "floor: none, a delay was injected; calibrate without --inject-pct for one"
    measured = calibration_of(snapshot)
    if measured is None:
        return f"floor: none yet, it takes {FIRST_LOOK} blocks in which both twins are timed on the same hardware"
    where = f"{measured.device_name or 'an unknown processor'}, {counted(measured.num_workers, 'worker')}"
    return (
        f"floor: {measured.floor_sd * 100:.2g} % between runs ({where}, {measured.host}); inside a block the twins "
        f"differ by {measured.run_sd * 100:.2g} %"
    )
