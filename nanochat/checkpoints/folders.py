"""Where the torchrun trainer keeps its checkpoints: `<root>/step_000070/`, each there as a whole or not at all.

A checkpoint is written into a hidden folder next to its place, forced to the disk, and renamed. If its step is there
already, the older folder first steps aside under another hidden name. A kill between these two renames leaves the step
without a folder of its name, but with complete hidden ones: readers find those, and the next save names one of them.
Whatever is deleted is renamed first, so a deletion that is cut short leaves nothing that looks like a checkpoint.

"Newest" means published last, whatever the step: a run that starts from the beginning in the same place counts from
step 0 again. Publications are numbered, because a clock can be set back.
"""

import json
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from nanochat.checkpoints.format import INDEX, CheckpointError
from nanochat.checkpoints.untrusted import UntrustedError, plain_bytes
from nanochat.files import sync, write_whole
from nanochat.stats import Checkpoint

_HIDDEN = ".unfinished-"
_ASIDE = f"{_HIDDEN}replaced-"
_DOOMED = f"{_HIDDEN}old-"
_NAME = re.compile(r"(\.unfinished-(?:replaced-)?)?(step_(\d{6,}))")
_MOST = 2.0**53  # above, a number and its successor are one
_ORDER = "order.json"  # which publication of this root it was, counted from 1; older versions wrote none


def save(root: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Collective, `root` shared by all ranks. Writes and publishes a checkpoint, then keeps the newest `keep`.

    Raises CheckpointError on every rank; what was written by then is removed, earlier checkpoints are untouched.
    """
    final = root / f"step_{checkpoint.step:06d}"
    temporary = root / f"{_HIDDEN}{final.name}"
    checkpoint.together(lambda: _begin(root, temporary), first_only=True)
    try:
        checkpoint.write(temporary)
        checkpoint.together(lambda: publish(temporary, final), first_only=True)
    except CheckpointError:
        with suppress(OSError):  # each rank tries; one of them is first
            _delete(temporary)
        raise
    checkpoint.together(lambda: prune(root, keep), first_only=True)
    return final


def publish(temporary: Path, final: Path) -> None:
    """Gives a folder that is on the disk its final name, in place of an older one of that name."""
    aside = final.with_name(f"{_ASIDE}{final.name}")
    if final.exists():
        if aside.exists():
            _delete(aside)
        final.rename(aside)
    temporary.rename(final)
    sync(final.parent)
    if aside.exists():
        _delete(aside)


def prune(root: Path, keep: int) -> None:
    """Deletes all but the newest `keep` checkpoints, and what was never finished. Call it while nothing is written."""
    _name_survivors(root)
    for folder in list(root.glob(f"{_HIDDEN}*")):
        _delete(folder)
    for folder in newest_first(root)[max(keep, 1) :]:
        _delete(folder)


def newest_first(root: Path) -> list[Path]:
    """Every step's checkpoint folder, the one published last first. Reads only, so all ranks may call it.

    Folders without a publication number come last, in the order of the times in their indexes.
    """
    return sorted(_found(root).values(), key=_order, reverse=True)


def step_of(folder: Path) -> int:
    """The number of steps done in a checkpoint folder that `newest_first` found."""
    match = _NAME.fullmatch(folder.name)
    if match is None:
        raise ValueError(f"{folder} is not named like a checkpoint")
    return int(match[3])


def _found(root: Path) -> dict[str, Path]:
    """Each step's folder by its final name: of that name, else a complete one that a kill left under a hidden name."""
    matches = [(match, folder) for folder in root.glob("*step_*") if (match := _NAME.fullmatch(folder.name))]
    found = {match[2]: folder for match, folder in matches if match[1] is None}
    for hidden in (_HIDDEN, _ASIDE):  # the newer one of a step first
        for match, folder in matches:
            if match[1] == hidden and (folder / INDEX).is_file():
                found.setdefault(match[2], folder)
    return found


def _name_survivors(root: Path) -> None:
    """Completes publications that a kill has cut short."""
    for name, folder in _found(root).items():
        if folder.name != name:
            folder.rename(root / name)
            sync(root)


def _begin(root: Path, temporary: Path) -> None:
    """An empty folder to write into, with the number of its publication."""
    _name_survivors(root)
    if temporary.exists():  # what a killed run left
        _delete(temporary)
    number = 1 + max((_order(folder)[0] for folder in newest_first(root)), default=0)
    temporary.mkdir(parents=True)
    write_whole(temporary / _ORDER, json.dumps({"number": number}).encode())


def _delete(folder: Path) -> None:
    if not folder.name.startswith(_DOOMED):
        folder = folder.rename(folder.with_name(f"{_DOOMED}{folder.name}-{secrets.token_hex(4)}"))
    shutil.rmtree(folder, ignore_errors=True)


def _order(folder: Path) -> tuple[int, float, int]:
    return int(_value(folder / _ORDER, "number")), _value(folder / INDEX, "written_unix_s"), step_of(folder)


def _value(path: Path, key: str) -> float:
    """A number in a small JSON file; 0 if there is none to read."""
    try:
        value = float(json.loads(plain_bytes(path))[key])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, UntrustedError):
        return 0.0
    return value if 0 <= value < _MOST else 0.0
