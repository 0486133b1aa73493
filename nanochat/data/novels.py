"""The text that comes with the package: six novels, and which part of their documents is for validation.

Imports only the standard library, as a plan says how often it passes over this text.
"""

from pathlib import Path

from nanochat.config import ConfigError

VAL_ONE_IN = 16
_NOVELS_DIR = Path(__file__).parent / "austen"


def read_novels() -> dict[str, str]:
    """The embedded text by novel. Raises ConfigError if it is missing."""
    novels = {path.stem: path.read_text(encoding="utf-8") for path in sorted(_NOVELS_DIR.glob("*.txt"))}
    if not novels:
        raise ConfigError(f"the embedded corpus is missing: no novels in {_NOVELS_DIR}; install nanochat-sweep again")
    return novels
