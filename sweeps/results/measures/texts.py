"""How much text the trials train on, how often they pass over it, and whether those of a block saw the same tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from nanochat.config import TrainConfig, get_field
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot

_POSSIBLE = range(1, 2**63)
_SAME_BATCHES = (
    *("data.source", "data.device_batch_size", "data.total_batch_tokens"),
    *("model.seq_len", "model.vocab_size", "run.seed"),
)


@dataclass(frozen=True, kw_only=True)
class Passes:
    """What some trials need of one text."""

    runs: tuple[str, ...]
    num_tokens: int  # that each of them trains on
    text_tokens: int  # of the training text

    @property
    def passes(self) -> float:
        """How often each passes over the text."""
        return self.num_tokens / self.text_tokens


@dataclass(frozen=True, kw_only=True)
class OtherTokens:
    """A trial that was served other tokens than the first one of its block that should have seen the same."""

    run: str
    first: str
    step: int  # the first at which they differ


def passes_of(snapshot: Snapshot) -> list[Passes]:
    """One for each amount of tokens and text; trials that have not told their text are left out."""
    found: dict[tuple[int, int], list[str]] = {}
    for trial in snapshot.trials:
        needs = _needs(trial)
        if needs is not None:
            found.setdefault(needs, []).append(trial.run)
    return [Passes(runs=tuple(runs), num_tokens=n, text_tokens=text) for (n, text), runs in found.items()]


def _needs(trial: TrialSnapshot) -> tuple[int, int] | None:
    facts: dict[str, Any] = trial.facts
    numbers = [facts.get(name) for name in ("num_steps", "total_batch_tokens", "text_tokens")]
    known = [number for number in numbers if isinstance(number, int) and number in _POSSIBLE]
    return (known[0] * known[1], known[2]) if len(known) == 3 else None


def other_tokens(snapshot: Snapshot) -> list[OtherTokens]:
    """Trials of a block whose served tokens differ at equal steps, though their configs ask for the same batches."""
    ordered = sorted(snapshot.trials, key=_batches)
    return [found for _, group in groupby(ordered, key=_batches) for found in _against_first(list(group))]


def _batches(trial: TrialSnapshot) -> str:
    config: TrainConfig = trial.trial.config
    return repr((trial.trial.block, [get_field(config, path) for path in _SAME_BATCHES]))


def _against_first(trials: Sequence[TrialSnapshot]) -> Iterator[OtherTokens]:
    """A running digest that differs once differs from there on."""
    first = trials[0]
    for trial in trials[1:]:
        if _served_last(first) == _served_last(trial):
            continue
        of_first, served = _served(first), _served(trial)
        differing = [step for step in of_first.keys() & served.keys() if served[step] != of_first[step]]
        if differing:
            yield OtherTokens(run=trial.run, first=first.run, step=min(differing))


def _served_last(trial: TrialSnapshot) -> tuple[int | None, str | None]:
    return trial.summary.last_served_step, trial.summary.last_served


def _served(trial: TrialSnapshot) -> dict[int, str]:
    """The digest of served tokens by step, where it is known."""
    pairs = zip(trial.steps.ints("step"), trial.steps.texts("served_digest"), strict=True)
    return {step: digest for step, digest in pairs if digest is not None}
