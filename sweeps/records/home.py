"""Where experiments live and how one is found by what a user types.

The root is --storage, else NANOCHAT_SWEEP_STORAGE, else the XDG data folder. EXP on a command line is an id, a unique
prefix of one, a path or an address; ids come first, so that a folder of the same name in the working directory cannot
shadow an experiment.
"""

import difflib
import os
import re
import shlex
from datetime import datetime
from pathlib import Path

from sweeps.records.store import Store
from sweeps.spec.errors import UsageError


def storage_root(option: str | None) -> str:
    """The folder or address under which experiments lie, absolute. Raises UsageError where it is empty or strange."""
    if option == "":
        raise UsageError("--storage is empty; give a folder or an address, or leave it out")
    chosen = option or os.environ.get("NANOCHAT_SWEEP_STORAGE")
    if not chosen:
        data_home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
        chosen = os.path.join(data_home, "nanochat-sweep")
    return Store(chosen).uri


def new_experiment_id(sweep: str, now: datetime) -> str:
    """The name of an experiment that is launched now."""
    return f"{now:%Y%m%d_%H%M%S}_{sweep}"


def list_experiments(root: str) -> list[str]:
    """The ids of all experiments under a root, oldest first (an id starts with its time).

    A folder that is closed to the user is none of theirs. Raises UsageError where the root cannot be read.
    """
    store = Store(root)
    try:
        names = store.list()
    except OSError as error:
        raise UsageError(f"storage {root} cannot be read: {error}; choose another place with --storage") from None
    return [name for name in names if holds(store, name, "manifest.json")]


def holds(store: Store, name: str, file: str) -> bool:
    """Whether a folder of the store holds a file that this user may know of."""
    try:
        return store.exists(f"{name}/{file}")
    except PermissionError:
        return False


def find_experiment(name: str, storage: str | None) -> str:
    """The address of the experiment that a user means. Raises UsageError with the candidates if it is not one."""
    if "://" in name:
        return Store(name).uri
    if name.startswith((".", "~")) or "/" in name:
        return _existing_folder(name)
    root = storage_root(storage)
    ids = list_experiments(root)
    if not name:
        raise UsageError(_not_found(name, root, ids))
    matches = [name] if name in ids else [i for i in ids if i.startswith(name)]
    if len(matches) == 1:
        return Store(root).uri_of(matches[0])
    if len(matches) > 1:
        raise UsageError(f"{name!r} fits {len(matches)} experiments in {root}: {', '.join(matches)}; type one of them")
    if Path(name).is_dir():
        return Store(name).uri
    raise UsageError(_not_found(name, root, ids))


def typed_name(uri: str) -> str:
    """What a user types for the experiment at an address: its folder's name where that is enough without --storage."""
    root, _, name = uri.rpartition("/")
    return name if storage_root(None).rstrip("/") == root else shlex.quote(uri)


def check_on_disk(option: str, place: Path) -> None:
    """Raises UsageError for an address like s3://..., of which a path makes a folder named `s3:` below this one."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(place)):
        raise UsageError(f"{option} takes a folder or file on a disk, got {place}; only --storage takes addresses")


def _existing_folder(path: str) -> str:
    uri = Store(path).uri
    if not Path(uri).is_dir():
        raise UsageError(f"there is no folder {uri}; give an experiment's id, its folder or its address")
    return uri


def _not_found(name: str, root: str, ids: list[str]) -> str:
    if not ids:
        return f"no experiment {name!r}: {root} holds none; launch one, or say where with --storage"
    near = difflib.get_close_matches(name, ids, n=3, cutoff=0.5)
    some = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {some}"
    return f"no experiment {name!r} in {root}; {hint}"
