"""Documents of a trial that are no JSON any more, as a crash of the machine or of its disk leaves them.

One such file must not keep the other trials from running. The next owner of the experiment moves it aside: what it held
is kept under a name that no reader looks for, and the trial is what its other files say. A document that is whole but
of another version stays where it is.
"""

from sweeps.records.documents import json_object
from sweeps.records.layout import TrialFolders
from sweeps.records.store import Store
from sweeps.spec.errors import CorruptData

SET_ASIDE = ".damaged"


def set_aside_damaged(store: Store, trial: str) -> list[str]:
    """Moves a trial's unreadable documents aside; one sentence each. Only the experiment's owner calls this."""
    folders = TrialFolders(trial)
    attempts = [f"{folders.attempts}/{name}" for name in store.list(folders.attempts) if name.endswith(".json")]
    sentences: list[str] = []
    for path in (*attempts, folders.config, folders.result, folders.origin):
        try:
            data = store.read(path)
        except FileNotFoundError:
            continue
        if not _is_json(data):
            store.write(f"{path}{SET_ASIDE}", data)
            store.delete(path)
            aside = f"{path.rpartition('/')[2]}{SET_ASIDE}"
            sentences.append(f"{store.uri_of(path)} is damaged ({len(data)} bytes, no JSON); set aside as {aside}")
    return sentences


def _is_json(data: bytes) -> bool:
    try:
        json_object(data, "")
    except CorruptData:
        return False
    return True
