"""`gate`: whether the candidate passes its gates, as an exit code and in words."""

import json

import typer

from cli.options import AsJson, Exp, Storage


def gate(exp: Exp, as_json: AsJson = False, storage: Storage = None) -> None:
    """Print the verdict per gate and leg; exit 0, 3 or 4.

    0: every gate holds. 3: one failed. 4: undecided, or not to be judged.
    """
    from cli.console import note, out, table, warn
    from cli.stored import open_snapshot
    from sweeps.results.decisions.conclusion import CPU_WARNING, conclude, ran_on_cpu
    from sweeps.results.decisions.judgement import judge
    from sweeps.results.decisions.listing import gate_json, gate_rows, leg_rows
    from sweeps.results.decisions.phrase import text_of
    from sweeps.results.decisions.reach import floor_in_words

    _, snapshot = open_snapshot(exp, storage)
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
        if ran_on_cpu(snapshot):
            warn(CPU_WARNING)
        out(f"\nfloor: {floor_in_words(judgement.floor_sd, snapshot.calibration)}")
        for reason in snapshot.stale_calibrations:
            note(f"not used: {reason}")
    raise typer.Exit(judgement.exit_code)
