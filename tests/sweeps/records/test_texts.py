"""All attempts of an experiment read the same text, or they are rejected."""

import dataclasses
from collections.abc import Callable

import pytest

from nanochat.config import with_overrides
from nanochat.stats import TextFacts
from sweeps.records.documents import AttemptRecord
from sweeps.records.experiment import Experiment
from sweeps.records.texts import check_text, first_read, recorded_text
from sweeps.spec.errors import DriftError
from sweeps.spec.plan import Plan

TEXT = TextFacts(text_digest="a" * 64, tokenizer_digest="b" * 64, num_text_shards=3)


def tell(experiment: Experiment, trial: str, text: TextFacts | None, **ends: str) -> None:
    """An attempt that has started with this text; None: one of a version that did not look."""
    record = experiment.trial(trial)
    facts = {"device": "cpu"} | (vars(text) if text else {})
    record.update_attempt(dataclasses.replace(record.start_attempt(num_workers=2), facts=facts, **ends))


def test_before_the_first_attempt_has_told_anything_every_text_is_good(
    make_experiment: Callable[..., Experiment],
) -> None:
    experiment = make_experiment()
    check_text(experiment, None, TEXT)
    experiment.trial("static-b1").start_attempt(num_workers=2)  # ended before it knew its text
    tell(experiment, "bf16-b1", None)
    assert first_read(experiment, None) is None
    check_text(experiment, None, TEXT)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"text_digest": "c" * 64, "num_text_shards": 4},
            r"the text \(3 shards then, 4 now; digest aaaaaaaaaaaa then, cccccccccccc now\) in the package changed "
            r"since attempt 1 of static-b1; put back what was there and restore the experiment, or launch a new one",
        ),
        ({"text_digest": "c" * 64}, r"the text \(digest aaaaaaaaaaaa then, cccccccccccc now\)"),
        ({"tokenizer_digest": "d" * 64}, r"the tokenizer of the text \(digest bbbbbbbbbbbb then, dddddddddddd now\)"),
    ],
)
def test_another_text_or_tokenizer_is_refused_with_what_was_seen(
    make_experiment: Callable[..., Experiment], change: dict[str, object], sentence: str
) -> None:
    experiment = make_experiment()
    tell(experiment, "static-b1", None, end="interrupted")
    tell(experiment, "static-b1", TEXT)
    check_text(experiment, None, TEXT)
    with pytest.raises(DriftError, match=sentence) as refused:
        check_text(experiment, None, dataclasses.replace(TEXT, **change))
    assert refused.value.exit_code == 6


def test_the_same_text_in_another_number_of_files_of_which_nothing_was_told_is_the_same() -> None:
    attempt = AttemptRecord(number=0, host="h", pid=1, started_utc="", num_workers=1)
    assert recorded_text(attempt) is None
    assert recorded_text(dataclasses.replace(attempt, facts={"text_digest": None, "tokenizer_digest": None})) is None
    told = dataclasses.replace(attempt, facts={"text_digest": "a", "tokenizer_digest": "b"})
    assert recorded_text(told) == TextFacts(text_digest="a", tokenizer_digest="b", num_text_shards=0)


def test_only_legs_of_the_same_source_are_compared(
    make_experiment: Callable[..., Experiment], toy_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = toy_plan()
    first = plan.trials[0]
    elsewhere = dataclasses.replace(first, config=with_overrides(first.config, {"data.source": "/elsewhere"}))
    mixed = dataclasses.replace(plan, trials=(elsewhere, *plan.trials[1:]))
    experiment = make_experiment()
    monkeypatch.setattr(Experiment, "plan", mixed)
    other = dataclasses.replace(TEXT, text_digest="e" * 64)
    tell(experiment, first.name, other)
    check_text(experiment, None, TEXT)
    check_text(experiment, "/elsewhere", other)
    with pytest.raises(DriftError, match="in /elsewhere changed"):
        check_text(experiment, "/elsewhere", TEXT)
