"""A copy of the report where people look, made again after each leg, and committed there if asked for.

Only its own files are added and committed, whatever else is staged or changed in that repository stays unchanged, and
nothing is ever pushed. The report is the same for the same data, so a commit is made only where numbers changed. The
repository's hooks and settings are the user's own and apply to it, as they do to a commit by hand.
"""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sweeps.records.documents import COMPLETED_STATES
from sweeps.records.experiment import Experiment
from sweeps.records.store import Store
from sweeps.results.report.blocks import ABOVE
from sweeps.spec.errors import SweepToolError, UsageError
from sweeps.spec.words import counted

_SUFFIXES = (".md", ".html", ".svg")
_TIMEOUT_S = 60
# What a hook of another repository, from which a launch can be started, would lead git to.
_ELSEWHERE = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_NAMESPACE"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES"),
)


@dataclass(frozen=True)
class ReportCopy:
    """A folder that shows the report."""

    folder: Path
    commits: bool = False

    def check(self) -> None:
        """Raises UsageError for a place that cannot be one, before anything has run."""
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"--report-to {self.folder} is no folder")
        if not self.commits:
            return
        existing = next(place for place in (self.folder, *self.folder.parents) if place.is_dir())
        try:
            _git(existing, "rev-parse", "--show-toplevel")
        except SweepToolError as error:
            raise UsageError(f"--commit: {self.folder} is in no git repository ({error}); leave --commit out") from None

    def publish(self, experiment: Experiment) -> None:
        """Copies the report as it is now. Raises OSError or SweepToolError; the next leg tries again."""
        source, target = Store(experiment.store.uri_of("report")), Store(str(self.folder))
        names = [name for name in source.list() if name.endswith(_SUFFIXES)]
        known = set(target.list())
        for name in names:
            data = without_links(source.read(name))
            if name not in known or target.read(name) != data:
                target.write(name, data)
        if self.commits and names:
            _commit(self.folder, names, _subject(experiment))


def _subject(experiment: Experiment) -> str:
    states = list(experiment.trial_states().values())
    num_done = sum(state in COMPLETED_STATES for state in states)
    return f"Report of {experiment.id}: {num_done} of {counted(len(states), 'trial')} completed"


def _commit(folder: Path, names: list[str], subject: str) -> None:
    _git(folder, "add", "--", *names)
    if _git(folder, "status", "--porcelain", "--", *names):
        _git(folder, "commit", "--quiet", "--message", subject, "--only", "--", *names)


def _git(folder: Path, *arguments: str) -> str:
    """What git says. Raises SweepToolError with its reason; it has no terminal to ask on."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            env={k: v for k, v in os.environ.items() if k not in _ELSEWHERE} | {"GIT_TERMINAL_PROMPT": "0"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SweepToolError(f"git {arguments[0]} in {folder}: {error}") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        why = next((line for line in said if line.startswith(("fatal:", "error:"))), said[0])  # advice comes after it
        raise SweepToolError(f"git {arguments[0]} in {folder}: {why}")
    return done.stdout.strip()


def without_links(data: bytes) -> bytes:
    """A report without its links into the experiment's folder, which lead nowhere from a copy."""
    above = re.escape(ABOVE.encode())
    data = re.sub(rb'<a href="' + above + rb'[^"]*">(<code>.*?</code>)</a>', rb"\1", data)
    return re.sub(rb"\[(`+[^`]*`+)\]\(<" + above + rb"[^>]*>\)", rb"\1", data)
