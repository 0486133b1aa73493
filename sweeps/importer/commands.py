"""The command line with which a run was started, and the config that it means.

The trainers that print these logs read flags with argparse: a flag may be shortened while it stays unique, and of two
values the last one counts. Both are undone here, because our own command line allows neither. A flag that this trainer
does not have leaves the config unknown: another one would be a guess.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.config import ConfigError, TrainConfig
from nanochat.flags import FLAGS, Switch, parse_flags

_PROCESSES = re.compile(r"--nproc[_-]per[_-]node")
_TRAINER = re.compile(r"(?:.*[/.])?base_train(?:\.py)?")
_OURS = frozenset(
    {
        *("--fp8-head", "--fp8-attention", "--fp8-qkv", "--fp8-out", "--fp8-experts", "--vocab-size", "--attention"),
        *("--data", "--core-bundle", "--seed", "--log-every", "--compile-fallback", "--kernels", "--deterministic"),
        *("--router-bias-rate", "--router-z-loss-coeff", "--no-final-save", "--resume"),
    }
)
_THEIRS = tuple(flag.name for flag in FLAGS if flag.name not in _OURS)  # what can be shortened
_SWITCHES = frozenset(flag.name for flag in FLAGS if isinstance(flag, Switch))


@dataclass(frozen=True, kw_only=True)
class Command:
    """How a run was started."""

    argv: tuple[str, ...]  # the trainer's own arguments
    num_processes: int | None  # None: it does not say, as where the launcher decides


def read_command(text: str) -> Command | None:
    """The training command in a text, over several lines if each but the last ends in a backslash; None if none is."""
    try:
        words = shlex.split(re.sub(r"\\\s*(?:\r?\n|$)", " ", text), comments=True)
    except ValueError:
        return None
    place = next((i for i, word in enumerate(words) if _TRAINER.fullmatch(word)), None)
    if place is None:
        return None
    argv = words[place + 1 :]
    ends = [i for i, word in enumerate(argv) if word in ("|", "||", "&&", ";", "&") or re.match(r"\d*>", word)]
    argv = argv[: ends[0]] if ends else argv
    return Command(argv=tuple(argv[1:] if argv[:1] == ["--"] else argv), num_processes=_num_processes(words[:place]))


def config_of(argv: Sequence[str]) -> TrainConfig:
    """The config that the arguments mean. Raises ConfigError if a flag or a value is not one of this trainer."""
    return parse_flags(_plain(argv))[0]


def _num_processes(words: Sequence[str]) -> int | None:
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if _PROCESSES.fullmatch(name):
            value = value if equals else next(iter(words[i + 1 :]), "")
            return int(value) if re.fullmatch(r"[1-9]\d{0,4}", value) else None
    return None if any("torchrun" in word or "distributed" in word for word in words) else 1


def _plain(argv: Sequence[str]) -> list[str]:
    """Whole names, each once with its last value."""
    words, given = list(argv), dict[str, str | None]()
    while words:
        name, equals, value = words.pop(0).partition("=")
        if not name.startswith("--"):
            raise ConfigError(f"unexpected argument {name!r}")
        name = _whole(name)
        if name in _SWITCHES and not equals:
            given[name] = None
            continue
        if not equals:
            if not words:
                raise ConfigError(f"{name} has no value")
            value = words.pop(0)
        given.pop(name, None)
        given[name] = value
    return [name if value is None else f"{name}={value}" for name, value in given.items()]


def _whole(name: str) -> str:
    if name in _OURS or name in _THEIRS:
        return name
    begun = [flag for flag in _THEIRS if flag.startswith(name)]
    if len(begun) != 1:
        raise ConfigError(f"flag {name} is {'none of this trainer' if not begun else 'short for several'}")
    return begun[0]
