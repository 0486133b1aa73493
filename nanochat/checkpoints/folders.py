"""Where the torchrun trainer keeps its checkpoints: `<root>/step_000070/`, each there as a whole or not at all.

A checkpoint is written into a hidden folder beside its place, forced to the disk, and renamed. Whatever is killed at
whatever moment, the folders with a final name are complete. "Newest" means written last: a run started anew in the same
place counts from step 0 again, and its checkpoints come before the older run's.
"""

import json
import shutil
from pathlib import Path

from nanochat.checkpoints.format import INDEX, CheckpointError, sync
from nanochat.stats import Checkpointable

_HIDDEN = ".unfinished-"


def save(root: Path, state: Checkpointable, keep: int) -> Path:
    """Collective, `root` shared by all ranks. Writes and publishes a checkpoint, then keeps the newest `keep`.

    Raises CheckpointError on every rank; what was written by then is removed, earlier checkpoints are untouched.
    """
    final = root / f"step_{state.step:06d}"
    temporary = root / f"{_HIDDEN}{final.name}"
    state.together(lambda: _make_anew(temporary), first_only=True)
    try:
        state.write(temporary)
        state.together(lambda: publish(temporary, final), first_only=True)
    except CheckpointError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    state.together(lambda: prune(root, keep), first_only=True)
    return final


def _make_anew(temporary: Path) -> None:
    shutil.rmtree(temporary, ignore_errors=True)  # what a killed run left
    temporary.mkdir(parents=True)


def publish(temporary: Path, final: Path) -> None:
    """Gives a folder that is on the disk its final name, in place of an older one of that name."""
    replaced = final.with_name(f"{_HIDDEN}replaced-{final.name}")
    if final.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    temporary.rename(final)
    sync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def prune(root: Path, keep: int) -> None:
    """Deletes all but the newest `keep` checkpoints, and what was never finished. Call it while nothing is written."""
    for folder in newest_first(root)[max(keep, 1) :]:
        folder.rename(folder.with_name(f"{_HIDDEN}old-{folder.name}"))  # so that a cut deletion leaves no half of one
    for folder in root.glob(f"{_HIDDEN}*"):
        shutil.rmtree(folder, ignore_errors=True)


def newest_first(root: Path) -> list[Path]:
    """All checkpoint folders, the one written last first; those that do not say when come last."""
    return sorted(root.glob("step_*"), key=lambda folder: (_written_unix_s(folder), folder.name), reverse=True)


def _written_unix_s(folder: Path) -> float:
    try:
        return float(json.loads((folder / INDEX).read_bytes())["written_unix_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
