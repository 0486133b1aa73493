"""`handoff`: what is done, what is left with exact commands, and where the decision stands."""

import json
import shlex
from collections.abc import Callable
from typing import Any

from nanochat.flags import parse_flags
from sweeps.records.documents import utc_now
from sweeps.records.experiment import Experiment
from tests.helpers.failing import fail_attempt

Program = Callable[..., Any]


def test_commands_of_what_is_left_train_the_trials_own_configs(
    program: Program, make_experiment: Callable[..., Experiment], complete: Callable[..., None]
) -> None:
    experiment = make_experiment(id="mine")
    first, *others = experiment.plan.trials
    complete(experiment, first.name)
    found = json.loads(program("handoff", "mine", "--json").out)
    assert [t["name"] for t in found["completed"]] == [first.leg.name]
    assert [t["name"] for t in found["left"]] == [trial.leg.name for trial in others]
    assert found["commands"]["resume"] == "nanochat-sweep restore mine"
    assert found["commands"]["retry"] is None
    for trial, left in zip(others, found["left"], strict=True):
        words = shlex.split(left["torchrun"])
        config, options = parse_flags(words[words.index("--") :])
        assert options.model_tag == trial.leg.name
        assert (config.model, config.moe, config.schedule) == (
            trial.config.model,
            trial.config.moe,
            trial.config.schedule,
        )
        assert config.run.seed == trial.config.run.seed


def test_the_page_names_state_decision_failure_and_place(
    program: Program, make_experiment: Callable[..., Experiment]
) -> None:
    experiment = make_experiment(id="mine")
    record = experiment.trials()[0]
    fail_attempt(record, "ValueError", "a | b", ended_utc=utc_now())
    page = program("handoff", "mine").out
    assert page.startswith("# Handoff: `mine`\n")
    assert "ValueError: a \\| b" in page
    assert "nanochat-sweep retry mine" in page
    assert experiment.uri in page
    assert "no process runs it" in page


def test_a_running_experiment_is_watched_or_stopped_not_resumed(
    program: Program, make_experiment: Callable[..., Experiment]
) -> None:
    experiment = make_experiment(id="mine")
    experiment.lock()
    try:
        commands = json.loads(program("handoff", "mine", "--json").out)["commands"]
    finally:
        experiment.unlock()
    assert commands["resume"] is None
    assert (commands["stop"], commands["watch"]) == ("nanochat-sweep stop mine", "nanochat-sweep status mine --watch")
