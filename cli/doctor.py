"""`doctor`: whether this machine is ready for sweeps, check by check, with what to do where it is not."""

import dataclasses
import json
import sys
from typing import TYPE_CHECKING

from cli.options import AsJson, Storage
from sweeps.spec.visible import visible

if TYPE_CHECKING:
    from cli.checks import Check


def doctor(
    as_json: AsJson = False,
    storage: Storage = None,
) -> int:
    """Check Python, torch, GPUs, Ray, storage and data.

    Idle GPUs are measured: matrix products, then an all-reduce over all of them.
    """
    from cli.checks import all_checks
    from cli.console import has_colour, note, out, out_coloured

    note("this takes some seconds, with GPUs a few more for each")
    checks: list[Check] = []
    for check in all_checks(storage):
        checks.append(check)
        if not as_json:
            out_coloured(check_lines(check, has_colour(sys.stdout)))
            sys.stdout.flush()
    if as_json:
        document = {"schema": "nanochat-sweep/doctor/1", "checks": [dataclasses.asdict(check) for check in checks]}
        out(json.dumps(document, indent=2, ensure_ascii=False))
    return int(any(check.level == "problem" for check in checks))


def check_lines(check: "Check", colour: bool = False) -> str:
    """A check for people: level, name, what was seen; what to do on the next line."""
    level = f"{check.level:<9}"
    if colour:
        level = {"ok": "\x1b[32m", "warning": "\x1b[33m", "problem": "\x1b[1;31m"}[check.level] + level + "\x1b[0m"
    line = f"{level}{check.name:<12}{visible(check.seen)}"
    return line if check.advice is None else f"{line}\n{'':<21}{visible(check.advice)}"
