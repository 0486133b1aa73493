"""Every argument and option that several commands take, declared once: its name, its form, its line of help."""

from pathlib import Path
from typing import Annotated

import typer

from cli.completing import experiments, fields, legs, sweeps

Exp = Annotated[
    str,
    typer.Argument(
        metavar="EXP", help="An experiment's id, a prefix of it, its folder or address.", autocompletion=experiments
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(metavar="PLACE", help="Folder of the experiments, or s3://... Default: NANOCHAT_SWEEP_STORAGE."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# What to run: `plan` and `launch`.
SweepName = Annotated[
    str,
    typer.Argument(metavar="SWEEP", help="A sweep file, or the name of a built-in sweep.", autocompletion=sweeps),
]
Preset = Annotated[str | None, typer.Option(help="Scale the sweep: tiny runs on two CPU cores.")]
NumWorkers = Annotated[
    int | None, typer.Option(metavar="N", help="Workers per leg; same total batch size. Default: as planned.")
]
NumSteps = Annotated[int | None, typer.Option(metavar="N", help="Optimizer steps per leg.")]
Blocks = Annotated[str, typer.Option(metavar="N|auto", help="Times every leg runs; auto: until the gates are decided.")]
MaxBlocks = Annotated[int, typer.Option(metavar="N", help="Most blocks that gates can take, 3 to 12.")]
ParallelBlocks = Annotated[
    str | None, typer.Option("--parallel", metavar="N|auto", help="Blocks at a time, each on one node of a cluster.")
]
Legs = Annotated[str | None, typer.Option(metavar="NAME,...", help="Only these legs.", autocompletion=legs)]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of all legs; repeatable.", autocompletion=fields),
]

# How to run it: `launch`, `restore` and `retry`.
Address = Annotated[
    str | None,
    typer.Option(envvar="RAY_ADDRESS", metavar="HOST:PORT", help="Ray cluster. Default: 'local', a private one."),
]
Grace = Annotated[float, typer.Option(metavar="SECONDS", help="Time for a stopped leg to write a checkpoint.")]
StopAfter = Annotated[
    str | None, typer.Option(metavar="TIME", help="Stop gracefully after this long, e.g. 50m or 1h30m.")
]
ReportTo = Annotated[Path | None, typer.Option(metavar="DIR", help="Copy the report there after each leg.")]
Commit = Annotated[
    bool, typer.Option("--commit", help="With --report-to: commit the copy in its git repository, whose hooks run.")
]
Events = Annotated[
    str | None, typer.Option(metavar="json", help="Print each event as a JSON object on stdout, one a line.")
]
Notify = Annotated[
    str | None, typer.Option(metavar="CMD", help="Run this when a leg or all ends; it gets the event on stdin.")
]
KeepCheckpoints = Annotated[
    str, typer.Option(metavar="none|last|all", help="Which checkpoints of completed legs stay.")
]
Preflight = Annotated[
    bool | None, typer.Option("--preflight/--no-preflight", help="First run 3 steps of every leg. Default: on GPUs.")
]
