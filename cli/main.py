"""The program `nanochat-sweep`: its verbs, its version, its exit code.

A verb's file imports only typer and the standard library until the verb runs, so that `--help` is instant.
"""

import sys
from typing import Annotated

import typer

from cli.calibrate import calibrate
from cli.clean import clean
from cli.compare import compare
from cli.console import guarded, out
from cli.data import data
from cli.doctor import doctor
from cli.export import export
from cli.gate import gate
from cli.handoff import handoff
from cli.import_logs import import_logs
from cli.launch import launch
from cli.logs import logs
from cli.ls import ls
from cli.parsing import Verb
from cli.plan import plan
from cli.report import report
from cli.restore import restore
from cli.retry import retry
from cli.rm import rm
from cli.status import status
from cli.stop import stop
from cli.why import why

app = typer.Typer(
    name="nanochat-sweep",
    help="Sweeps of nanochat-style MoE and FP8 training runs on Ray: define, launch, restore, compare.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_RUNNING = (launch, plan, restore, retry, stop, clean, rm)
_READING = (status, logs, ls, gate, why, compare, report, export, handoff, import_logs)
_PREPARING = (calibrate, data, doctor)
VERBS = (*_RUNNING, *_READING, *_PREPARING)
for verb in VERBS:
    app.command("import" if verb is import_logs else None, cls=Verb)(verb)


@app.callback(invoke_without_command=True)
def program(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Show the version, or the help where no verb is given."""
    if version:
        from importlib.metadata import version as installed_version

        out(f"nanochat-sweep {installed_version('nanochat-sweep')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        out(context.get_help())


def run() -> None:
    """The console script."""
    sys.exit(guarded(lambda: app(standalone_mode=False)))


if __name__ == "__main__":
    run()
