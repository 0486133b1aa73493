"""An experiment that is damaged again and again, beside one that is not, and what must stay as it is meanwhile.

Three things lie below one folder: `storage` with the two experiments, `outside`, which stands for all that is not the
experiment's, and copies of whatever gets changed. After each mutation the folder is put back.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

VICTIM, OTHER = "20260101_120000_victim", "20260101_130000_other"
BIG_BYTES = 2**20

Facts = tuple[int, int, int, int]  # of a file: mode, size, inode, time of its last change


class Sandbox:
    """`root` holds storage/VICTIM and storage/OTHER already."""

    def __init__(self, root: Path) -> None:
        self.root, self.storage, self.outside = root, root / "storage", root / "outside"
        self.victim = self.storage / VICTIM
        (self.outside / "folder").mkdir(parents=True)
        for name in ("secret", "folder/secret", "manifest.json", "checkpoint.json"):
            (self.outside / name).write_text("nobody may read, change or delete this\n")
        self._copy = root / "pristine"
        shutil.copytree(self.victim, self._copy, symlinks=True)
        self._facts = dict(_walk(self.victim))

    def files(self) -> list[str]:
        """Every file of the victim as it was, relative to it."""
        return sorted(name for name, facts in self._facts.items() if stat.S_ISREG(facts[0]))

    def folders(self) -> list[str]:
        """Every folder of the victim as it was."""
        return sorted(name for name, facts in self._facts.items() if stat.S_ISDIR(facts[0]))

    def original(self, name: str) -> bytes:
        """What a file held."""
        return (self._copy / name).read_bytes()

    def restore(self) -> None:
        """Undoes every change of the victim."""
        for left in ("moved", "out"):
            shutil.rmtree(self.root / left, ignore_errors=True)
        seen = dict(_walk(self.victim))
        for name in sorted(seen.keys() - self._facts.keys()):
            _remove(self.victim / name)
        for name, facts in sorted(self._facts.items()):
            now = seen.get(name)
            if now != facts and not (now and stat.S_ISDIR(facts[0]) and stat.S_ISDIR(now[0])):
                _remove(self.victim / name)
                self._put_back(name, facts)
        for name in [name for name, facts in self._facts.items() if stat.S_ISDIR(facts[0])]:
            os.chmod(self.victim / name, stat.S_IMODE(self._facts[name][0]))
            self._facts[name] = _facts(self.victim / name)

    def _put_back(self, name: str, facts: Facts) -> None:
        target = self.victim / name
        if stat.S_ISDIR(facts[0]):
            target.mkdir(exist_ok=True)
        else:
            shutil.copy2(self._copy / name, target)  # its time too: what is kept of rows goes by that
        self._facts[name] = _facts(target)


def _facts(path: Path) -> Facts:
    seen = path.lstat()
    return (
        (seen.st_mode, 0, 0, 0)
        if stat.S_ISDIR(seen.st_mode)
        else (seen.st_mode, seen.st_size, seen.st_ino, seen.st_mtime_ns)
    )


def _walk(root: Path, inside: str = "") -> Iterator[tuple[str, Facts]]:
    for entry in os.scandir(root / inside):
        name = f"{inside}/{entry.name}" if inside else entry.name
        yield name, _facts(Path(entry.path))
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(root, name)


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)
