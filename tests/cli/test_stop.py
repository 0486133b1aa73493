"""`stop` asks once, waits, and says what is left."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from sweeps.records.experiment import Experiment

Make = Callable[..., Experiment]


def obey(experiment: Experiment) -> threading.Thread:
    """A launcher that lets go of the experiment once it is asked to stop."""

    def run() -> None:
        while experiment.stop_requested() is None:
            time.sleep(0.02)
        time.sleep(0.2)
        experiment.unlock()

    experiment.lock()
    launcher = threading.Thread(target=run, daemon=True)
    launcher.start()
    return launcher


def test_it_asks_the_owner_and_returns_when_it_has_ended(
    program: Callable, make_experiment: Make, complete: Callable[..., None]
) -> None:
    experiment = make_experiment(id="mine")
    complete(experiment, "static-b1")
    obey(experiment)
    done = program("stop", "mine")
    assert (done.code, done.out) == (0, "")
    asked, ended = done.err.splitlines()
    assert asked.startswith("mine: process ")
    assert "is asked to stop; the running leg ends after its step and writes a checkpoint" in asked
    assert ended == "mine has ended: 1 of 4 trials completed; continue with: nanochat-sweep restore mine"
    assert experiment.stop_requested() == "nanochat-sweep stop"
    assert experiment.owner() is None


def test_a_second_call_waits_too_and_keeps_the_first_reason(program: Callable, make_experiment: Make) -> None:
    experiment = make_experiment(id="mine")
    experiment.request_stop("SIGINT")
    obey(experiment)
    done = program("stop", "mine")
    assert "was asked to stop before; the running leg" in done.err
    assert experiment.stop_requested() == "SIGINT"


def test_what_nobody_runs_is_left_alone_with_exit_code_0(program: Callable, make_experiment: Make) -> None:
    experiment = make_experiment(id="mine")
    done = program("stop", "mine")
    assert (done.code, done.out) == (0, "")
    assert done.err == "mine is not running (interrupted); nothing to stop\n"
    assert experiment.stop_requested() is None


def test_a_completed_experiment_needs_no_restore(
    program: Callable, make_experiment: Make, complete: Callable[..., None]
) -> None:
    experiment = make_experiment(id="mine")
    for trial in experiment.plan.trials:
        complete(experiment, trial.name)
    obey(experiment)
    assert program("stop", "mine").err.splitlines()[-1] == "mine has ended: 4 of 4 trials completed"


def test_a_request_that_cannot_be_written_names_another_way(program: Callable, make_experiment: Make) -> None:
    experiment = make_experiment(id="mine")
    (Path(experiment.uri) / "requests").write_text("in the way")
    experiment.lock()
    done = program("stop", "mine")
    experiment.unlock()
    assert done.code == 2
    assert done.err.startswith("error: the request cannot be written")
    assert "kill -INT" in done.err
