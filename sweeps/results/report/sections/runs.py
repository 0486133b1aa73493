"""The run summary: every trial under the names that people know from training logs."""

from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.measures.trial import TAIL_STEPS
from sweeps.results.report.blocks import Cell, Code, Column, Strong, Table, Words, number_cell, text_cell
from sweeps.results.status import RUN_METRICS, shown_state
from sweeps.spec.words import counted


def trial_table(snapshot: Snapshot) -> Table:
    """One line per trial."""
    rows: list[list[Cell]] = []
    has_nodes = any(trial.node for trial in snapshot.trials)
    for trial in snapshot.trials:
        m = trial.measures
        name: Words = (Code(trial.run), *((" (fell back to no compilation)",) if trial.fell_back else ()))
        state = shown_state(trial)
        numbers = [number_cell(trial.shown(metric.name), metric.digits) for metric in RUN_METRICS]
        rows.append(
            [
                Cell(words=name),
                text_cell(state, state),
                number_cell(m.steps_observed),
                number_cell(m.last_step),
                *numbers,
                *([text_cell(trial.node or "-")] if has_nodes else []),
            ]
        )
    numbers = ("steps_observed", "last_step", *(metric.run_heading for metric in RUN_METRICS))
    return Table(
        caption="Run summary, one line per trial",
        columns=[
            Column(heading="run"),
            Column(heading="status"),
            *(Column(heading=n, kind="number") for n in numbers),
            *([Column(heading="node")] if has_nodes else []),
        ],
        rows=rows,
    )


def tail_lines(snapshot: Snapshot) -> list[Words]:
    """A warning where the tail50 columns hold steps that are no measure of speed, as in every short run."""
    ran = [trial for trial in snapshot.trials if trial.steps and trial.imported is None]
    short = [trial for trial in ran if not all(trial.counted[-TAIL_STEPS:])]
    if not short:
        return []
    first = " step 0 with its compilation among them," if any(len(t.steps) <= TAIL_STEPS for t in short) else ""
    which = "every run" if len(short) == len(ran) else f"{counted(len(short), 'run')} of {len(ran)}"
    return [
        (
            Strong(f"tail50 is no measure of speed in {which}"),
            f": it is the plain mean of the last {TAIL_STEPS} steps, or of all, and of these some do not count for "
            f"timing (warm-up,{first} saves, evaluations). The comparison of legs leaves them out.",
        )
    ]


def diverged_lines(snapshot: Snapshot) -> list[Words]:
    """Which trials have learnt nothing, and what shows it."""
    return [
        (Code(t.run), f" diverged, so it is compared with no other: {t.diverged}")
        for t in snapshot.trials
        if t.diverged
    ]
