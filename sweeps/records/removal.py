"""Deletes an experiment: all of its folder, and nothing that is not one.

On a disk the folder first gets a hidden name, in one act, so a kill leaves either the whole experiment or none; what is
left under the hidden name goes with the next removal in that place. On object storage the manifest goes last: what a
kill leaves is an experiment still, and can be removed.
"""

import contextlib
import errno
import secrets
import shutil
from pathlib import Path

from sweeps.records.arrow import arrow_fs
from sweeps.records.experiment import Experiment
from sweeps.records.owner import Owner
from sweeps.records.store import Store
from sweeps.spec.errors import CorruptData, Locked, UsageError

_REMOVED = ".removed-"
_LAST = ("lock", "manifest.json")


def check_removable(uri: str) -> Experiment | None:
    """The experiment that a folder holds; None for one whose manifest is damaged.

    Raises UsageError if the folder is not an experiment, if it is a link, or if it holds other experiments; CorruptData
    if that cannot be told; Locked while a launch runs it.
    """
    store = Store(uri)
    folder = store.local_path()
    if folder is not None and folder.is_symlink():
        raise UsageError(f"{uri} is a link to {folder.resolve()}; give that folder")
    try:
        experiment = Experiment.open(uri)
    except CorruptData:
        experiment = None
        _check_is_ours(uri, store.read("manifest.json"))
    others = [name for name in store.everything() if name != "preflight" and _holds_manifest(store, name)]
    if others:
        raise UsageError(f"{uri} holds other experiments: {', '.join(others[:3])}; delete or move them first")
    owner = None if experiment is None else experiment.owner()
    if owner is not None:
        raise Locked(
            f"{uri} is in use by process {owner.pid} on {owner.host}; stop it first with `nanochat-sweep stop {uri}`"
        )
    return experiment


def remove_experiment(uri: str) -> None:
    """Deletes what `check_removable` accepts. Raises as it does, and OSError if storage fails in the middle."""
    experiment = check_removable(uri)
    if experiment is not None:
        experiment.lock(Owner.this_process())
        experiment.keep_locked()
    store = Store(uri)
    folder = store.local_path()
    if folder is not None:
        _remove_folder(folder)
        return
    for name in sorted(store.everything(), key=lambda name: _LAST.index(name) if name in _LAST else -1):
        _delete(store, name)
    if store.everything():
        _delete_markers(store.uri)


def _remove_folder(folder: Path) -> None:
    hidden = folder.with_name(f"{_REMOVED}{folder.name}-{secrets.token_hex(4)}")
    folder.rename(hidden)
    for left in folder.parent.glob(f"{_REMOVED}*"):
        shutil.rmtree(left, ignore_errors=True)
    if hidden.exists():
        raise OSError(errno.ENOTEMPTY, "some of its files cannot be deleted", str(hidden))


def _delete(store: Store, name: str) -> None:
    with contextlib.suppress(OSError):  # a file, or what fails below again
        store.delete_tree(name)
    if store.exists(name):
        store.delete(name)


def _delete_markers(uri: str) -> None:
    """Deletes the empty objects that Ray makes for folders: their names end in a slash, which only pyarrow writes."""
    with contextlib.suppress(OSError, ValueError):  # it can be tried again
        filesystem, base = arrow_fs().FileSystem.from_uri(uri)
        filesystem.delete_dir(base)


def _holds_manifest(store: Store, name: str) -> bool:
    try:
        return store.exists(f"{name}/manifest.json")
    except OSError:
        return False


def _check_is_ours(uri: str, manifest: bytes) -> None:
    """Raises CorruptData for a manifest that this tool may not have written: in its own the schema comes first."""
    if b'"nanochat-sweep/manifest/' not in manifest[:200]:
        raise CorruptData(
            f"{uri} cannot be told to be an experiment: its manifest.json is damaged or another program's; delete the "
            f"folder by hand if it is yours"
        )
