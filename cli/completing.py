"""What a shell offers after Tab: experiments, legs, config fields, sweeps. Never an error, whatever the storage holds.

`nanochat-sweep --install-completion` sets it up; verbs and options complete by themselves.
"""

import contextlib
import os
from collections.abc import Callable, Iterable
from functools import wraps

import typer


def _quietly(offer: Callable[[typer.Context, str], Iterable[str]]) -> Callable[[typer.Context, str], list[str]]:
    """The offers that begin like what was typed; none if anything fails."""

    @wraps(offer)
    def offers(ctx: typer.Context, incomplete: str) -> list[str]:
        with contextlib.suppress(Exception):
            return sorted({word for word in offer(ctx, incomplete) if word.startswith(incomplete)})
        return []

    return offers


@_quietly
def experiments(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    """The ids below the storage root."""
    from sweeps.records.home import list_experiments, storage_root

    return list_experiments(storage_root(ctx.params.get("storage")))


@_quietly
def legs(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    """The legs of the experiment or sweep that was typed before; in a list with commas those that come next."""
    before, comma, _ = incomplete.rpartition(",")
    return [before + comma + name for name in _legs_of(ctx) if name not in before.split(",")]


@_quietly
def fields(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    """`field=` for each config field; after the equals sign its values, if they are few."""
    from nanochat.config import field_alternatives, field_paths

    path, equals, _ = incomplete.partition("=")
    if not equals:
        return [f"{name}=" for name in field_paths()]
    values = [value for value in field_alternatives(path) if not isinstance(value, type)]
    booleans = ["True", "False"] if bool in field_alternatives(path) else []
    return [f"{path}={value}" for value in (*values, *booleans)]


@_quietly
def sweeps(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    """Built-in sweeps, and Python files and folders here."""
    from pathlib import Path

    from sweeps.spec.find import built_in_sweeps

    folder, slash, _ = incomplete.rpartition("/")
    place = Path(folder + slash or ".")
    found = [f"{folder}{slash}{path.name}{'/' * path.is_dir()}" for path in place.iterdir() if _is_shown(path.name)]
    return [*built_in_sweeps(), *(name for name in found if name.endswith((".py", "/")))]


def _is_shown(name: str) -> bool:
    return not name.startswith((".", "_"))


def _legs_of(ctx: typer.Context) -> list[str]:
    """From storage for an experiment, from the file for a sweep."""
    from sweeps.records.experiment import Experiment
    from sweeps.records.home import find_experiment
    from sweeps.spec.find import load_sweep

    typed = ctx.params.get("exp") or ctx.params.get("sweep") or _word_after_the_verb()
    if ctx.info_name in ("plan", "launch", "calibrate"):
        return [leg.name for leg in load_sweep(typed).legs]
    return [leg.name for leg in Experiment.open(find_experiment(typed, ctx.params.get("storage"))).plan.legs]


def _word_after_the_verb() -> str:
    """What a shell passes of the line, for the moment: an option without its value keeps typer from reading it."""
    words = (os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or "").split()
    return words[2] if len(words) > 2 else ""
