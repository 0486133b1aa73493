"""What did not go through in one piece: interruptions, failures, steps that changed nothing, damaged files."""

from sweeps.records.documents import AttemptRecord
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.report.blocks import Code, Piece, Words
from sweeps.spec.words import counted


def interruption_lines(snapshot: Snapshot) -> list[Words]:
    """What was cut off or failed, where it continued, and how many steps were repeated."""
    lines: list[Words] = []
    for trial in snapshot.trials:
        last = len(trial.attempts) - 1
        for i, attempt in enumerate(trial.attempts):
            following = trial.attempts[i + 1] if i < last else None
            if following is not None or trial.state in ("interrupted", "failed"):
                lines.append(_interruption(trial, attempt, following))
    return lines


def move_lines(snapshot: Snapshot) -> list[Words]:
    """Which blocks left a node, where they went, and which completed legs ran again there."""
    lines: list[Words] = []
    for move in snapshot.moves:
        again = f"; again from their start: {', '.join(move.again)}" if move.again else ""
        lines.append((f"Block {move.block} moved to {move.node_host}/{move.node_id[:6]} at {move.moved_utc}{again}.",))
    return lines


def skipped_lines(snapshot: Snapshot) -> list[Words]:
    """Which trials have steps that changed nothing, because a gradient was not finite."""
    found = [(t, t.summary.skipped) for t in snapshot.trials if t.summary.skipped]
    return [
        (Code(t.run), f" skipped {number} of {len(t.steps)} steps, whose gradient was not finite; the last is {last}")
        for t, (number, last) in found
    ]


def damage_lines(snapshot: Snapshot) -> list[Words]:
    """Which files were not whole."""
    torn = [(Code(f), " is torn: its whole lines are used, the rest is ignored") for f in snapshot.torn_files]
    return [*torn, *((Code(t.run), f" cannot be read: {t.damage}") for t in snapshot.trials if t.damage)]


def _interruption(trial: TrialSnapshot, attempt: AttemptRecord, following: AttemptRecord | None) -> Words:
    span = trial.spans.get(attempt.number)
    steps = f"stored steps {span[0]} to {span[1]}" if span else "stored no step"
    how = {
        "failed": "failed",
        "stopped": "was stopped",
        "completed": "completed, and ran again on another node" if attempt.again_utc else "ended before its result",
        "interrupted": "was interrupted",
        None: "was cut off",
    }[attempt.end]
    line: list[Piece] = [
        Code(trial.run),
        f": attempt {attempt.number} on {attempt.node or attempt.host} {steps} and {how}",
    ]
    if attempt.error is not None:
        error = f": {attempt.error.type}: {attempt.error.message}"
        line += [error[:300], " (log: ", Code(trial.log_name), ")"]
    if following is None:
        line += ["."] if attempt.end == "failed" else ["; ", Code("nanochat-sweep restore"), " continues it."]
    elif following.first_step is None:
        line.append(f"; attempt {following.number} followed.")
    else:
        reached = max((trial.spans[n][1] for n in trial.spans if n <= attempt.number), default=-1)
        repeated = max(0, reached + 1 - following.first_step)
        line.append(
            f"; attempt {following.number} resumed at step {following.first_step} "
            f"({counted(repeated, 'step')} repeated)."
        )
    return tuple(line)
