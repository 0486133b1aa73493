"""Which text the attempts of an experiment read: all that read the same `data.source` read the same, or none is run.

Legs that trained on different text say nothing about each other, and nothing later would show it. So an attempt is
compared, before it builds anything, with the first one that has told what it read. Attempts of versions that did not
look have told nothing, and are compared with nothing.
"""

from dataclasses import dataclass
from typing import Any

from nanochat.stats import TextFacts
from sweeps.records.documents import AttemptRecord
from sweeps.records.experiment import Experiment
from sweeps.spec.errors import DriftError


@dataclass(frozen=True)
class Read:
    """What an attempt read."""

    trial: str
    attempt: int
    text: TextFacts


def recorded_text(attempt: AttemptRecord) -> TextFacts | None:
    """What an attempt has recorded about its text; None if it is not known."""
    facts: dict[str, Any] = attempt.facts or {}
    if not facts.get("text_digest") or not facts.get("tokenizer_digest"):
        return None
    return TextFacts(
        text_digest=facts["text_digest"],
        tokenizer_digest=facts["tokenizer_digest"],
        num_text_shards=facts.get("num_text_shards") or 0,
    )


def first_read(experiment: Experiment, source: str | None) -> Read | None:
    """What the first attempt read that recorded it, in the plan's order, of the trials with this `data.source`."""
    for trial in experiment.plan.trials:
        if trial.config.data.source != source:
            continue
        for attempt in experiment.trial(trial.name).attempts():
            text = recorded_text(attempt)
            if text is not None:
                return Read(trial.name, attempt.number, text)
    return None


def check_text(experiment: Experiment, source: str | None, seen: TextFacts) -> None:
    """Raises DriftError if the text or tokenizer that is there now is not what the experiment's first attempt read."""
    first = first_read(experiment, source)
    if first is None or not (difference := difference_of(first.text, seen)):
        return
    where = "in the package" if source is None else f"in {source}"
    raise DriftError(
        f"{difference} {where} changed since attempt {first.attempt} of {first.trial}; put back what was there and "
        "restore the experiment, or launch a new one"
    )


def difference_of(then: TextFacts, now: TextFacts) -> str:
    """What differs, with what was seen; nothing if both are the same."""
    if then.text_digest != now.text_digest:
        numbers = (then.num_text_shards, now.num_text_shards)
        shards = f"{numbers[0]} shards then, {numbers[1]} now; " if 0 < numbers[0] != numbers[1] else ""
        return f"the text ({shards}digest {then.text_digest[:12]} then, {now.text_digest[:12]} now)"
    if then.tokenizer_digest != now.tokenizer_digest:
        return f"the tokenizer of the text (digest {then.tokenizer_digest[:12]} then, {now.tokenizer_digest[:12]} now)"
    return ""
