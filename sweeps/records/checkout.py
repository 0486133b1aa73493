"""The git checkout that this project's code runs from, asked without running anything that its settings name.

git runs programs by its settings: a monitor of the file system, drivers that show or filter a file. And variables of
the environment lead it to other repositories. A question about the code needs neither, so both are switched off.
"""

import os
import subprocess
from pathlib import Path

OWN_FILE = "sweeps/records/checkout.py"  # a checkout that does not know this file is another project's
PROJECT = 'name = "nanochat-sweep"'
OWN_FOLDERS = ("nanochat", "sweeps", "cli", "scripts")
_QUIET = ("--no-pager", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "diff.external=")
_PLAIN_DIFF = ("--no-ext-diff", "--no-textconv", "--ignore-submodules=dirty", "--no-color")
_TIMEOUT_S = 30


class Checkout:
    """What git knows of the code below a folder; nothing if that is not this project's own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def commit(self) -> str | None:
        """The commit that is checked out; None outside a checkout of this project."""
        if self._ask("ls-files", "--error-unmatch", "--", OWN_FILE) is None:
            return None
        return (self._ask("rev-parse", "--verify", "HEAD") or "").strip() or None

    def branch(self) -> str | None:
        """The branch that is checked out, if one is."""
        return (self._ask("symbolic-ref", "--quiet", "--short", "HEAD") or "").strip() or None

    def diff(self) -> str | None:
        """What is not committed, of this project's files only; None if nothing."""
        paths = ["."] if self._is_whole() else [name for name in OWN_FOLDERS if (self.root / name).is_dir()]
        return self._ask(*self._without_filters(), "diff", *_PLAIN_DIFF, "HEAD", "--", *paths) or None

    def new_files(self, folder: str) -> list[str]:
        """The files below a folder that git neither knows nor ignores, sorted."""
        listed = self._ask("ls-files", "--others", "--exclude-standard", "-z", "--", folder) or ""
        return sorted(filter(None, listed.split("\0")))

    def refusal(self) -> str | None:
        """Why git does not say anything about a checkout that is there: it belongs to another user. None if it does."""
        done = self._run("rev-parse", "--show-toplevel")
        said = [] if done is None else done.stderr.splitlines()
        fatal = next((line for line in said if "dubious ownership" in line), None)
        if fatal is None:
            return None
        return (
            f"the commit of the code is not known, git says: {fatal.removeprefix('fatal: ')}; if you trust its owner: "
            f"git config --global --add safe.directory {self.root}"
        )

    def _is_whole(self) -> bool:
        """True if the repository holds this project and nothing else."""
        prefix = self._ask("rev-parse", "--show-prefix")
        try:
            return prefix is not None and not prefix.strip() and PROJECT in (self.root / "pyproject.toml").read_text()
        except (OSError, ValueError):
            return False

    def _without_filters(self) -> list[str]:
        """Options that switch off the programs that convert files, which a comparison would start."""
        listed = self._ask("config", "--name-only", "-z", "--get-regexp", r"^filter\..*\.(clean|process|required)$")
        names = sorted({name.rpartition(".")[0] for name in (listed or "").split("\0") if name})
        off = [(f"{name}.clean=", f"{name}.process=", f"{name}.required=false") for name in names]
        return [word for settings in off for setting in settings for word in ("-c", setting)]

    def _ask(self, *arguments: str) -> str | None:
        """What git says; None if it fails."""
        done = self._run(*arguments)
        return done.stdout if done is not None and done.returncode == 0 else None

    def _run(self, *arguments: str) -> "subprocess.CompletedProcess[str] | None":
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        environment |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        try:
            return subprocess.run(
                ["git", "-C", str(self.root), *_QUIET, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_S,
                check=False,
                env=environment,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
