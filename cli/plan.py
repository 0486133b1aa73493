"""`plan`: what a sweep would run, without running it."""

import json
import math
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cli.choices import Choices
from cli.grouping import takes_groups
from cli.options import AsJson, Storage

if TYPE_CHECKING:
    from sweeps.results.decisions.foresight import Foresight
    from sweeps.spec.legs import Leg
    from sweeps.spec.plan import Plan


@takes_groups
def plan(
    *,
    as_json: AsJson = False,
    commands: Annotated[bool, typer.Option("--commands", help="Print one torchrun command per leg.")] = False,
    choices: Choices,
    tok_per_sec: Annotated[
        float | None, typer.Option(metavar="N", help="Speed of a leg, to say what it takes. Default: earlier runs.")
    ] = None,
    storage: Storage = None,
) -> None:
    """Print the legs, gates and cost of a sweep; start nothing."""
    from cli.console import out, warn
    from cli.texts import amount_lines
    from sweeps.results.decisions.foresight import lines_of
    from sweeps.spec.commands import torchrun_argv
    from sweeps.spec.errors import UsageError

    if tok_per_sec is not None and not 0 < tok_per_sec < math.inf:
        raise UsageError(f"--tok-per-sec must be a number above 0, got {tok_per_sec:g}")
    if as_json and commands:
        raise UsageError("--json and --commands exclude each other: the JSON holds the commands, too")
    planned = choices.plan()
    if as_json:
        document = plan_document(planned, _foresee(planned, choices.blocks, storage, tok_per_sec))
        out(json.dumps(document, indent=2, allow_nan=False))
    elif commands:
        out("\n".join(shlex.join(torchrun_argv(leg, planned.num_workers)) for leg in chosen_legs(planned)))
    else:
        lines, warnings = amount_lines(trial.config for trial in planned.trials)
        out(plan_text(planned, lines))
        out("\n" + "\n".join(lines_of(_foresee(planned, choices.blocks, storage, tok_per_sec))))
        for warning in warnings:
            warn(warning)


def _foresee(planned: "Plan", blocks: str, storage: str | None, tok_per_sec: float | None) -> "Foresight":
    """What the plan can decide and what it takes, by what is below the storage root.

    The card on which it will run is not known here; the host, the number of workers and the versions are.
    """
    import socket

    from cli.choices import AUTO
    from sweeps.records.calibrations import Calibrations, Conditions
    from sweeps.records.home import storage_root
    from sweeps.records.provenance import package_versions
    from sweeps.results.decisions.foresight import Foresight
    from sweeps.results.measures.cost import cost_of

    root = storage_root(storage)
    here = Conditions(
        num_workers=planned.num_workers,
        window_steps=planned.window_steps,
        host=socket.gethostname(),
        device_name=None,
        versions=package_versions(),
    )
    fitting = Calibrations(root).fitting(here)
    return Foresight(
        plan=planned,
        calibration=fitting.calibration,
        stale_calibrations=fitting.stale,
        cost=cost_of(planned, root, tok_per_sec),
        adds_blocks=blocks == AUTO,
    )


def chosen_legs(planned: "Plan") -> "list[Leg]":
    """The legs that run: all of the sweep, or those of --legs."""
    names = {trial.leg.name for trial in planned.trials}
    return [leg for leg in planned.legs if leg.name in names]


def plan_document(planned: "Plan", foresight: "Foresight") -> dict[str, object]:
    """The plan as `--json` prints it."""
    from cli.texts import num_passes
    from nanochat.config import to_dict
    from nanochat.sizes import batch_tokens, num_steps
    from sweeps.results.decisions.foresight import as_json
    from sweeps.spec.commands import torchrun_argv

    return {
        "schema": "nanochat-sweep/plan/1",
        "sweep": planned.sweep,
        "question": planned.question or None,
        "num_workers": planned.num_workers,
        "blocks": planned.num_blocks,
        "window_steps": planned.window_steps,
        "leg_timeout_s": planned.leg_timeout_s,
        "parallel": planned.parallel,
        "trials": [trial.name for trial in planned.trials],
        "legs": [
            {
                "name": leg.name,
                "id": leg.id,
                "role": leg.role,
                "overrides": leg.overrides,
                "steps": num_steps(leg.config),
                "batch_tokens": batch_tokens(leg.config),
                "tokens": num_steps(leg.config) * batch_tokens(leg.config),
                "passes": num_passes(leg.config),
                "torchrun": torchrun_argv(leg, planned.num_workers),
                "config": to_dict(leg.config),
            }
            for leg in chosen_legs(planned)
        ],
        **as_json(foresight),
    }


def plan_text(planned: "Plan", amounts: Sequence[str] = ()) -> str:
    """The plan for people: the question, the amount of work and of text, the legs."""
    from cli.counting import amount, counting_words
    from cli.fitting import terminal_columns
    from nanochat.sizes import batch_tokens, num_steps
    from sweeps.spec.words import counted

    legs = chosen_legs(planned)
    steps = sorted({num_steps(leg.config) for leg in legs})
    tokens = sorted({batch_tokens(leg.config) for leg in legs})
    rows = [(leg.name, leg.role, " ".join(f"{path}={value}" for path, value in leg.overrides.items())) for leg in legs]
    return "\n".join(
        [
            f"{planned.sweep}: {planned.question or '(the sweep file asks no question)'}",
            f"{counted(len(legs), 'leg')} x {counted(planned.num_blocks, 'block')} = "
            f"{counted(len(planned.trials), 'trial')}, {_at_a_time(planned)}, on "
            f"{counted(planned.num_workers, 'worker')}{_time_limit(planned)}",
            f"{amount(steps)} steps of {amount(tokens)} tokens; {counting_words(planned)}",
            *amounts,
            "",
            plan_table(rows, terminal_columns()),
        ]
    )


def plan_table(rows: Sequence[tuple[str, str, str]], columns: int | None) -> str:
    """Leg, role and overrides; where that is too wide, the overrides on lines of their own."""
    import textwrap

    from cli.console import table
    from cli.fitting import fitted

    whole = table(("leg", "role", "overrides"), rows)
    if columns is None or all(len(line) <= columns for line in whole.splitlines()):
        return whole
    heading, *lines = fitted(("leg", "role"), [row[:2] for row in rows], columns=columns)[0].splitlines()
    parts = [heading]
    for line, (_, _, overrides) in zip(lines, rows, strict=True):
        parts += [line, *textwrap.wrap(overrides, columns - 1, initial_indent="    ", subsequent_indent="    ")]
    return "\n".join(parts)


def _at_a_time(planned: "Plan") -> str:
    """How many legs run at the same time, and where."""
    if planned.parallel is None:
        return "one at a time"
    most = "one on every free node" if planned.parallel == "auto" else f"up to {planned.parallel} at a time"
    return f"blocks side by side, {most}, their legs one at a time"


def _time_limit(planned: "Plan") -> str:
    from sweeps.spec.duration import in_words

    return "" if planned.leg_timeout_s is None else f", at most {in_words(planned.leg_timeout_s)} each"
