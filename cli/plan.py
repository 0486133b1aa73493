"""`plan`: what a sweep would run, without running it."""

import json
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sweeps.spec.plan import Plan


def plan(
    sweep: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep file, or the name of a built-in sweep.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    commands: Annotated[bool, typer.Option("--commands", help="Print one torchrun command per leg.")] = False,
    preset: Annotated[str | None, typer.Option(help="Scale the sweep: tiny runs on two CPU cores.")] = None,
    num_workers: Annotated[int | None, typer.Option(help="Workers per leg; the total batch stays.")] = None,
    num_steps: Annotated[int | None, typer.Option(help="Optimizer steps per leg.")] = None,
    blocks: Annotated[int, typer.Option(help="How many times every leg runs.")] = 1,
    sets: Annotated[list[str] | None, typer.Option("--set", help="field=value, for all legs; repeatable.")] = None,
) -> None:
    """Print the legs of a sweep; nothing is started."""
    from cli.console import out
    from sweeps.spec.commands import torchrun_argv
    from sweeps.spec.errors import UsageError
    from sweeps.spec.find import load_sweep
    from sweeps.spec.plan import make_plan
    from sweeps.spec.preset import apply_preset, apply_settings

    if as_json and commands:
        raise UsageError("--json and --commands exclude each other: the JSON holds the commands, too")
    scaled = apply_preset(load_sweep(sweep), preset)
    settled = apply_settings(scaled, num_workers=num_workers, num_steps=num_steps, sets=sets or [])
    planned = make_plan(settled, blocks)
    if as_json:
        out(json.dumps(plan_document(planned), indent=2))
    elif commands:
        out("\n".join(shlex.join(torchrun_argv(leg, planned.num_workers)) for leg in planned.legs))
    else:
        out(plan_text(planned))


def plan_document(planned: "Plan") -> dict[str, object]:
    """The plan as `--json` prints it."""
    from sweeps.spec.commands import torchrun_argv

    return {
        "schema": "nanochat-sweep/plan/1",
        "sweep": planned.sweep,
        "num_workers": planned.num_workers,
        "blocks": planned.num_blocks,
        "legs": [
            {
                "name": leg.name,
                "id": leg.id,
                "role": leg.role,
                "overrides": leg.overrides,
                "torchrun": torchrun_argv(leg, planned.num_workers),
            }
            for leg in planned.legs
        ],
    }


def plan_text(planned: "Plan") -> str:
    """The plan for people: the question, the amount of work, the legs."""
    from cli.console import counted, table
    from nanochat.sizes import batch_tokens, num_steps

    steps = sorted({num_steps(leg.config) for leg in planned.legs})
    tokens = sorted({batch_tokens(leg.config) for leg in planned.legs})
    rows = [
        (leg.name, leg.role, " ".join(f"{path}={value}" for path, value in leg.overrides.items()))
        for leg in planned.legs
    ]
    return "\n".join(
        [
            f"{planned.sweep}: {planned.question or '(the sweep file asks no question)'}",
            f"{counted(len(planned.legs), 'leg')} x {counted(planned.num_blocks, 'block')} = "
            f"{counted(len(planned.trials), 'trial')}, one at a time, on {counted(planned.num_workers, 'worker')}",
            f"{_amount(steps)} steps of {_amount(tokens)} tokens; measured over the last {planned.window_steps} steps",
            "",
            table(("leg", "role", "overrides"), rows),
        ]
    )


def _amount(values: list[int]) -> str:
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"
