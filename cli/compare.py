"""`compare`: the legs of one experiment against the same legs of another."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import AsJson, Storage

if TYPE_CHECKING:
    from sweeps.results.decisions.comparison import ExperimentComparison, LegPair


def compare(
    first: Annotated[str, typer.Argument(metavar="EXP", help="The experiment to compare with: id, prefix or folder.")],
    second: Annotated[str, typer.Argument(metavar="EXP", help="The experiment that is compared.")],
    as_json: AsJson = False,
    storage: Storage = None,
) -> None:
    """Compare the legs of two experiments; exit 0, 3 or 4.

    The second over the first, leg by leg. 0: no leg is slower. 3: one is. 4: undecided, or advice alone.
    """
    from cli.console import out, table, warn
    from cli.stored import open_snapshot
    from sweeps.results.decisions.comparison import compare_experiments, comparison_json
    from sweeps.results.decisions.conclusion import CPU_WARNING, ran_on_cpu

    snapshots = [open_snapshot(name, storage)[1] for name in (first, second)]
    found = compare_experiments(*snapshots)
    if as_json:
        out(json.dumps(comparison_json(found), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        out(_headline(found))
        headers, *rows = _rows(found)
        out("\n" + table(headers, rows))
        for line in _notes(found):
            out(line)
        if any(map(ran_on_cpu, snapshots)):
            warn(CPU_WARNING)
    raise typer.Exit(found.exit_code)


def _headline(found: "ExperimentComparison") -> str:
    is_advice = found.outcome == "UNDECIDED" and any(pair.word == "ADVISORY" for pair in found.pairs)
    word = "ADVISORY" if is_advice else found.outcome
    measured = [pair for pair in found.pairs if pair.ratio is not None]
    if not measured:
        return f"{word}: no leg is measured in both {found.first} and {found.second}."
    worst = min(measured, key=lambda pair: pair.ratio or 0.0)
    return (
        f"{word}: {found.second} over {found.first}: the leg that fares worst is {worst.leg}, {_speed(worst)} tok/s, "
        f"{worst.word}{f' ({worst.reason})' if worst.reason else ''}."
    )


def _rows(found: "ExperimentComparison") -> list[tuple[str, ...]]:
    from sweeps.results.decisions.phrase import interval_of

    over = f"over {found.baseline}"
    head = ("leg", f"1st {over}", f"2nd {over}", "2nd over 1st", "memory", "loss", "blocks", "verdict")
    rows = [
        (
            pair.leg,
            interval_of(pair.first_over_baseline, None, None),
            interval_of(pair.second_over_baseline, None, None),
            _speed(pair),
            *(interval_of(pair.beside[name], None, None) for name in ("peak_mib", "loss")),
            f"{pair.num_first} and {pair.num_second}" + (f", {pair.num_shared} shared" if pair.num_shared else ""),
            pair.word + (f": {pair.reason}" if pair.reason else ""),
        )
        for pair in found.pairs
    ]
    return [head, *rows]


def _speed(pair: "LegPair") -> str:
    from sweeps.results.decisions.phrase import interval_of

    return interval_of(pair.ratio, pair.low, pair.high)


def _notes(found: "ExperimentComparison") -> list[str]:
    notes = [
        f"1st: {found.first}, 2nd: {found.second}. Speed is tok/s; both are held against {found.baseline} as it ran in "
        f"the 1st. Intervals hold together with 99 %.",
    ]
    for pair in found.pairs:
        if pair.other_fields:
            notes.append(f"{pair.leg} is another config in each: {', '.join(pair.other_fields[:5])}")
    if found.other_code:
        notes.append(f"The code differs: {', '.join(found.other_code)}")
    for names, where in ((found.only_first, "1st"), (found.only_second, "2nd")):
        if names:
            notes.append(f"Only in the {where}: {', '.join(names)}")
    return notes
