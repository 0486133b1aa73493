"""`gate`: whether the candidate passes its gates, as an exit code and in words."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import AsJson, Exp, Storage

if TYPE_CHECKING:
    from sweeps.results.measures.snapshot import Snapshot


def gate(
    exp: Exp,
    as_json: AsJson = False,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Simulate how often verdicts err on this experiment's noise.")
    ] = False,
    storage: Storage = None,
) -> None:
    """Print the verdict per gate and leg; exit 0, 3 or 4.

    0: every gate holds. 3: one failed. 4: undecided, or not to be judged.
    """
    from cli.console import note, out, table, warn
    from cli.stored import open_snapshot
    from sweeps.results.decisions.conclusion import CPU_WARNING, conclude, ran_on_cpu
    from sweeps.results.decisions.judgement import judge
    from sweeps.results.decisions.listing import gate_json, gate_rows, leg_rows, time_line
    from sweeps.results.decisions.phrase import text_of
    from sweeps.results.decisions.reach import floor_in_words

    _, snapshot = open_snapshot(exp, storage)
    if self_test:
        raise typer.Exit(_test_itself(snapshot, as_json))
    judgement = judge(snapshot)
    conclusion = conclude(snapshot, judgement)
    if as_json:
        out(json.dumps(gate_json(snapshot, judgement, conclusion), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        out(f"{conclusion.word}: {text_of(conclusion.sentence)}")
        for phrase in conclusion.also:
            out(text_of(phrase))
        for headers, *rows in (gate_rows(judgement), leg_rows(judgement)):
            if rows:
                out("\n" + table(headers, rows))
        if (line := time_line(snapshot)) is not None:
            out(f"\n{line}")
        if ran_on_cpu(snapshot):
            warn(CPU_WARNING)
        out(f"floor: {floor_in_words(judgement.floor_sd, snapshot.calibration)}")
        for reason in snapshot.stale_calibrations:
            note(f"not used: {reason}")
    raise typer.Exit(judgement.exit_code)


def _test_itself(snapshot: "Snapshot", as_json: bool) -> int:
    """Prints the simulated error rates; 0 if they hold, else 3."""
    from cli.console import out, waiting_for
    from sweeps.results.decisions.self_test import self_test, self_test_json, self_test_lines

    with waiting_for("experiments to be simulated"):
        found = self_test(snapshot)
    if as_json:
        out(json.dumps(self_test_json(found), indent=2, allow_nan=False))
    else:
        out("\n".join(self_test_lines(found)))
    return found.exit_code
