"""A command line with some flags given otherwise: what somebody gets who edits a command before pasting it."""

from collections.abc import Sequence

from nanochat.flags import FLAGS, Flag

_WITH_VALUE = {flag.name for flag in FLAGS if isinstance(flag, Flag)}


def edited(argv: Sequence[str], *flags: str) -> list[str]:
    """`argv` without its own flags of the names in `flags`, and then these; a flag's value is a separate word."""
    kept = list[str]()
    words = iter(argv)
    for word in words:
        own = [word, next(words)] if word in _WITH_VALUE else [word]
        kept += [] if word in flags and word.startswith("--") else own
    return [*kept, *flags]
