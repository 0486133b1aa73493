"""What a person or a program needs to take an experiment over: its state, what is left, the commands, the decision.

A pure function of a snapshot and of what was seen of the machine. Markdown and JSON hold the same.
"""

import shlex
from dataclasses import asdict, dataclass, replace
from typing import Any

from nanochat.config import with_overrides
from sweeps.records.documents import COMPLETED_STATES
from sweeps.records.home import typed_name
from sweeps.records.provenance import WorkingTree
from sweeps.results.decisions.conclusion import conclude
from sweeps.results.decisions.judgement import judge
from sweeps.results.decisions.listing import gate_json, gate_rows
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.status import failure_of, status_json
from sweeps.spec.commands import torchrun_argv
from sweeps.spec.errors import SweepError
from sweeps.spec.words import counted, one_line


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What was seen of the machine and of the process that runs the experiment."""

    host: str
    checkout: WorkingTree
    environment: str  # the folder of the Python environment
    python: str
    num_gpus: int | None  # None: no driver answers
    busy: tuple[str, ...]  # what computes on them
    runner: str | None  # the process that runs the experiment


def handoff_json(snapshot: Snapshot, machine: Machine) -> dict[str, Any]:
    """The document of `handoff --json`; null for what is not known."""
    judgement = judge(snapshot)
    decision = gate_json(snapshot, judgement, conclude(snapshot, judgement))
    trials = status_json(snapshot)["trials"]
    done = [t for t in trials if t["status"] in COMPLETED_STATES]
    left = [(one, t) for one, t in zip(snapshot.trials, trials, strict=True) if t["status"] not in COMPLETED_STATES]
    return {
        "schema": "nanochat-sweep/handoff/1",
        "experiment": snapshot.manifest.id,
        "path": snapshot.uri,
        "sweep": snapshot.manifest.sweep,
        "question": snapshot.plan.question or None,
        "state": snapshot.state,
        "runner": machine.runner,
        "imported_from": snapshot.manifest.imported_from,
        "completed": done,
        "left": [{**values, "torchrun": _torchrun(snapshot, trial)} for trial, values in left],
        "commands": commands_of(snapshot, is_running=machine.runner is not None),
        "environment": {
            "host": machine.host,
            "repository": asdict(machine.checkout),
            "environment": machine.environment,
            "python": machine.python,
            "launched_with": {"git_commit": snapshot.manifest.git_commit, "argv": snapshot.manifest.argv},
        },
        "gpus": {
            "number": machine.num_gpus,
            "idle": None if machine.num_gpus is None else not machine.busy,
            "busy": list(machine.busy),
        },
        "decision": {key: value for key, value in decision.items() if key not in ("schema", "experiment")},
    }


def commands_of(snapshot: Snapshot, *, is_running: bool) -> dict[str, str | None]:
    """What to type, by purpose; None if there is nothing of that kind to do."""
    exp, states = typed_name(snapshot.uri), {trial.state for trial in snapshot.trials}
    if snapshot.manifest.imported_from is not None:
        run: dict[str, str | None] = {
            "resume": f"nanochat-sweep launch SWEEP --continue-from {exp}",
            "retry": None,
            "add_blocks": None,
            "stop": None,
        }
    else:
        is_open = bool(states & {"pending", "interrupted", "running", "damaged"})
        run = {
            "resume": f"nanochat-sweep restore {exp}" if is_open and not is_running else None,
            "retry": f"nanochat-sweep retry {exp}" if "failed" in states and not is_running else None,
            "add_blocks": f"nanochat-sweep restore {exp} --blocks auto" if snapshot.plan.gates else None,
            "stop": f"nanochat-sweep stop {exp}" if is_running else None,
        }
    return {
        **run,
        "watch": f"nanochat-sweep status {exp} --watch" if is_running else None,
        "status": f"nanochat-sweep status {exp} --json",
        "decide": f"nanochat-sweep gate {exp}",
        "report": f"nanochat-sweep report {exp}",
    }


def handoff_markdown(snapshot: Snapshot, machine: Machine) -> str:
    """The same for people."""
    found = handoff_json(snapshot, machine)
    conclusion = found["decision"]["conclusion"]
    num_done, num_all = len(found["completed"]), len(snapshot.trials)
    runner = f"{machine.runner} runs it" if machine.runner else "no process runs it"
    parts = [
        f"# Handoff: `{snapshot.manifest.id}`",
        f"**{snapshot.state}**: {num_done} of {counted(num_all, 'trial')} completed; {runner}. Folder: "
        f"`{snapshot.uri}`.",
        *([snapshot.plan.question] if snapshot.plan.question else []),
        "## Decision",
        f"**{conclusion['word']}.** {conclusion['sentence']}",
        *found["decision"]["notes"],
        *_gates(snapshot),
        "## Completed",
        _table(("run", "last loss", "tok/s", "peak MiB"), [_done_row(t) for t in found["completed"]]),
        "## Left",
        _table(
            ("run", "state", "steps stored", "why"),
            [_left_row(snapshot, t) for t in snapshot.trials if t.state not in COMPLETED_STATES],
        ),
        "## Commands",
        _fence([f"cd {shlex.quote(machine.checkout.folder)}", f". {shlex.quote(machine.environment)}/bin/activate"]),
        _fence([command for command in found["commands"].values() if command]),
        *_by_hand(found["left"]),
        "## Environment",
        "\n".join(_environment(snapshot, machine)),
    ]
    return "\n\n".join(parts) + "\n"


def _by_hand(left: list[dict[str, Any]]) -> list[str]:
    commands = [t["torchrun"] for t in left if t["torchrun"]]
    if not commands:
        return []
    return [
        "What is left without this tool, from the first step and into its own checkpoints "
        "(`nanochat-sweep import` reads the logs):",
        _fence(commands),
    ]


def _environment(snapshot: Snapshot, machine: Machine) -> list[str]:
    checkout, launched = machine.checkout, snapshot.manifest.git_commit
    changes = {True: ", with uncommitted changes", False: ", clean", None: ""}[checkout.has_changes]
    gpus = "no GPU driver answers" if machine.num_gpus is None else f"{counted(machine.num_gpus, 'GPU')}"
    idle = "" if machine.num_gpus is None else "; in use: " + "; ".join(machine.busy) if machine.busy else ", all idle"
    return [
        f"- code: `{checkout.folder}`, branch {_code(checkout.branch)}, commit {_code(checkout.commit)}{changes}",
        f"- launched with commit {_code(launched)}: `{shlex.join(snapshot.manifest.argv) or '-'}`",
        f"- Python {machine.python} in `{machine.environment}` on `{machine.host}`",
        f"- {gpus}{idle if machine.num_gpus else ''}",
    ]


def _code(text: str | None) -> str:
    return f"`{text}`" if text else "unknown"


def _gates(snapshot: Snapshot) -> list[str]:
    headers, *rows = gate_rows(judge(snapshot))
    return [_table(headers, rows)] if rows else []


def _done_row(trial: dict[str, Any]) -> tuple[str, ...]:
    shown = [("last_loss", 4), ("tail50_tok_sec", 0), ("peak_mem_mib", 0)]
    return (
        f"`{trial['name']}`",
        *("-" if trial[key] is None else f"{trial[key]:,.{digits}f}" for key, digits in shown),
    )


def _left_row(snapshot: Snapshot, trial: TrialSnapshot) -> tuple[str, ...]:
    failure = failure_of(snapshot, trial)
    why = one_line(failure.error, 160) if failure else trial.damage or ""
    return f"`{trial.run}`", trial.state, str(trial.measures.steps_observed), why.replace("|", "\\|")


def _torchrun(snapshot: Snapshot, trial: TrialSnapshot) -> str | None:
    """The command that trains one trial by hand; None if its config is not known or has no command."""
    if not trial.has_known_config:
        return None
    config = with_overrides(trial.trial.leg.config, {"run.seed": trial.trial.config.run.seed})
    try:
        return shlex.join(torchrun_argv(replace(trial.trial.leg, name=trial.run, config=config), _workers(snapshot)))
    except SweepError:
        return None


def _workers(snapshot: Snapshot) -> int:
    return snapshot.plan.num_workers


def _table(headers: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return "None."
    lines = [headers, tuple(":--" for _ in headers), *rows]
    return "\n".join(f"| {' | '.join(cell or '-' for cell in line)} |" for line in lines)


def _fence(lines: list[str]) -> str:
    return "\n".join(["```bash", *lines, "```"])
