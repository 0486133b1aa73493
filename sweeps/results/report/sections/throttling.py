"""Which trials ran on GPUs that heat or the hardware slowed down, a line each."""

from nanochat.throttle import reason_names
from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.measures.throttling import Throttled, throttled_trials
from sweeps.results.report.blocks import Code, Section, Words
from sweeps.results.report.sections.across import Snapshots, listed, noted
from sweeps.spec.words import fixed


def throttling_sections(snapshots: Snapshots) -> list[Section]:
    """A section if any step was slowed down; nothing if none was or nothing is known."""
    lines = listed(snapshots, throttling_lines)
    if not lines.lines:
        return []
    note = (
        "Such steps count for timing, except those in which the slow-down begins, changes or ends: a card that is too "
        "hot all the time is measured unchanged. A power cap by software is normal under full load and not listed."
    )
    return noted("throttling", "GPU throttling", lines, note)


def throttling_lines(snapshot: Snapshot) -> list[Words]:
    """One line for each trial with such steps."""
    return [_line(throttled) for throttled in throttled_trials(snapshot)]


def _line(throttled: Throttled) -> Words:
    seen = [f"down to {fixed(throttled.lowest_mhz, 0)} MHz"] if throttled.lowest_mhz is not None else []
    seen += [f"at up to {fixed(throttled.highest_c, 0)} C"] if throttled.highest_c is not None else []
    return (
        Code(throttled.trial.run),
        f": {throttled.num_steps} of {len(throttled.trial.steps)} steps, {throttled.num_counted} of them counted, "
        + ", ".join([*seen, "because of " + " and ".join(reason_names(throttled.bits))]),
    )
