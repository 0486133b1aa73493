"""A document that is no JSON any more is kept under another name, and its trial goes on without it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.engine.trials.run import is_open
from sweeps.records.experiment import Experiment
from sweeps.spec.errors import CorruptData

TRIAL = "static-b1"


@pytest.fixture
def experiment(make_experiment: Callable[..., Experiment], complete: Callable[..., None]) -> Experiment:
    made = make_experiment()
    complete(made, TRIAL)
    return made


def damage(experiment: Experiment, name: str, content: bytes) -> Path:
    file = Path(experiment.uri) / "trials" / TRIAL / name
    file.write_bytes(content)
    return file


def test_without_its_result_a_trial_is_open_again_with_all_its_rows(experiment: Experiment) -> None:
    file = damage(experiment, "result.json", b'{"schema": "nanochat-sweep/res')
    assert is_open(experiment.trial(TRIAL))
    (sentence,) = experiment.set_aside_damaged()
    assert sentence == f"{file} is damaged (30 bytes, no JSON); set aside as result.json.damaged"
    assert experiment.trial_states()[TRIAL] == "interrupted"
    assert is_open(experiment.trial(TRIAL))
    assert len(experiment.trial(TRIAL).rows()) == 40
    assert experiment.set_aside_damaged() == []


def test_the_number_of_an_attempt_that_was_set_aside_is_not_used_again(experiment: Experiment) -> None:
    damage(experiment, "attempts/000.json", b"")
    experiment.set_aside_damaged()
    assert experiment.trial(TRIAL).start_attempt(num_workers=1).number == 1


def test_a_document_of_another_version_stays_where_it_is(experiment: Experiment) -> None:
    file = damage(experiment, "attempts/000.json", b'{"schema": "nanochat-sweep/attempt/2"}')
    assert experiment.set_aside_damaged() == []
    assert file.exists()
    with pytest.raises(CorruptData, match="attempt/2"):
        experiment.trial(TRIAL).attempts()


def test_others_are_not_touched(experiment: Experiment) -> None:
    before = {path: path.read_bytes() for path in Path(experiment.uri).rglob("*") if path.is_file()}
    assert experiment.set_aside_damaged() == []
    assert {path: path.read_bytes() for path in Path(experiment.uri).rglob("*") if path.is_file()} == before
