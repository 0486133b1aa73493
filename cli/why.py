"""`why`: where the difference between two legs of an experiment comes from."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.completing import legs
from cli.options import AsJson, Exp, Storage

if TYPE_CHECKING:
    from sweeps.results.decisions.judgement import LegVerdict
    from sweeps.results.measures.explanation import Explanation, Part
    from sweeps.results.measures.snapshot import Snapshot

_TITLES = {
    "step": "a counted step",
    "compile": "compilation",
    "steps": "steps",
    "clocks": "GPU",
    "wall": "wall time of a trial",
}


def why(
    exp: Exp,
    leg: Annotated[str, typer.Argument(metavar="LEG", help="The leg to explain.", autocompletion=legs)],
    against: Annotated[str | None, typer.Option(metavar="LEG", help="Default: the baseline.")] = None,
    as_json: AsJson = False,
    storage: Storage = None,
) -> None:
    """Print where the difference between two legs comes from.

    Phases of a step, compilation, dropped assignments, clocks, and how the wall time divides.
    """
    from cli.console import out, table, warn
    from cli.stored import open_snapshot
    from sweeps.results.decisions.conclusion import CPU_WARNING, ran_on_cpu
    from sweeps.results.measures.explanation import explain

    _, snapshot = open_snapshot(exp, storage)
    found = explain(snapshot, leg, against)
    if as_json:
        out(json.dumps(_document(snapshot, found), indent=2, ensure_ascii=False, allow_nan=False))
        return
    out(_headline(snapshot, found))
    if ran_on_cpu(snapshot):
        warn(CPU_WARNING)
    for reason in found.barred:
        warn(f"their times must not be compared: {reason}")
    for section, title in _TITLES.items():
        rows = [_row(part) for part in found.parts if part.section == section and _is_shown(part)]
        if rows:
            out("\n" + table((title, found.leg, found.against, "difference"), rows))
    differences = [(path, *map(str, pair)) for path, pair in found.fields.items()]
    differences += [(f"kernel of {role}", *(name or "-" for name in pair)) for role, pair in found.kernels.items()]
    if differences:
        out("\n" + table(("what differs", found.leg, found.against), differences))


def _headline(snapshot: "Snapshot", found: "Explanation") -> str:
    from sweeps.spec.words import counted, fixed, percent_change

    step = found.part("step", "dt")
    if not found.num_blocks:
        return f"{found.leg} and {found.against} are not both completed in any block: nothing to explain yet."
    if step.leg is None or step.against is None:
        return f"{found.leg} against {found.against}: a leg has no timing; `nanochat-sweep status` says why."
    speed = percent_change(found.speed) if found.speed is not None else "unknown"
    verdict = _verdict(snapshot, found)
    lead = (
        f"{found.leg}: {speed} tok/s against {found.against} ({verdict}, {counted(found.num_blocks, 'block')}), "
        f"{_signed(step.leg - step.against, 1)} ms a step"
    )
    largest = [(part, share) for part, share in found.shares if share >= _LEAST_SHARE][:3]
    if not largest:
        return f"{lead}; no phase explains it."
    parts = [f"{part.name} {_signed(part.change or 0.0, 1)} ms ({fixed(share * 100, 0)} %)" for part, share in largest]
    return f"{lead}, of which {', '.join(parts)}."


_LEAST_SHARE = 0.1


def _verdict(snapshot: "Snapshot", found: "Explanation") -> str:
    """The verdict on the speed, if the other leg is the baseline."""
    from sweeps.results.decisions.judgement import judge

    if found.against != snapshot.plan.baseline.name:
        return "not judged"
    verdict: LegVerdict = judge(snapshot).of_leg(found.leg)
    return verdict.word


def _is_shown(part: "Part") -> bool:
    """True unless both are unknown, or nothing of the kind happened in either."""
    return bool(part.leg) or bool(part.against)


def _row(part: "Part") -> tuple[str, ...]:
    digits = 1 if part.unit in ("ms", "s", "%", "C") else 2 if part.name.startswith("load") else 0
    unit = f" {part.unit}" if part.unit else ""
    values = [_number(value, digits) for value in (part.leg, part.against)]
    change = "-" if part.change is None else _signed(part.change, digits)
    return (part.name + (f" ({unit.strip()})" if unit else ""), *values, change)


def _number(value: float | None, digits: int) -> str:
    from sweeps.spec.words import grouped

    return "-" if value is None else grouped(value, digits)


def _signed(value: float, digits: int) -> str:
    from sweeps.spec.words import grouped

    text = grouped(abs(value), digits)
    if float(text.replace(",", "")) == 0:
        return text
    return ("+" if value > 0 else "\N{MINUS SIGN}") + text


def _document(snapshot: "Snapshot", found: "Explanation") -> dict[str, Any]:
    shares = {part.name: share for part, share in found.shares}
    return {
        "schema": "nanochat-sweep/why/1",
        "experiment": snapshot.manifest.id,
        "leg": found.leg,
        "against": found.against,
        "blocks": found.num_blocks,
        "speed_ratio": found.speed,
        "sentence": _headline(snapshot, found),
        "barred": list(found.barred),
        "parts": [
            {
                "section": part.section,
                "name": part.name,
                "unit": part.unit,
                "leg": part.leg,
                "against": part.against,
                "difference": part.change,
                "share": shares.get(part.name) if part.section == "step" else None,
            }
            for part in found.parts
        ],
        "fields": {path: {"leg": pair[0], "against": pair[1]} for path, pair in found.fields.items()},
        "kernels": {role: {"leg": pair[0], "against": pair[1]} for role, pair in found.kernels.items()},
    }
