"""`rm` deletes an experiment after a question, and nothing else."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.records.experiment import Experiment

Make = Callable[..., Experiment]


class Typed(io.StringIO):
    """Standard input on a terminal, on which a person has typed something."""

    def isatty(self) -> bool:
        return True


def test_without_a_terminal_it_asks_for_the_option(program: Callable, make_experiment: Make) -> None:
    experiment = make_experiment(id="mine")
    done = program("rm", "mine")
    assert (done.code, done.out) == (2, "")
    assert f"{experiment.uri} (4 trials, interrupted), and there is no terminal to ask on; add --yes" in done.err
    assert program("rm", "mine", "--yes").code == 0
    assert not Path(experiment.uri).exists()
    assert program("ls", "--json").out.count("mine") == 0
    assert program("rm", "mine", "--yes").code == 2  # there is none any more


@pytest.mark.parametrize(
    ("typed", "is_deleted"), [("y\n", True), ("Yes\n", True), ("n\n", False), ("\n", False), ("", False)]
)
def test_on_a_terminal_only_a_yes_deletes(
    typed: str, is_deleted: bool, program: Callable, make_experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make_experiment(id="mine")
    monkeypatch.setattr(sys, "stdin", Typed(typed))
    done = program("rm", "mine")
    assert done.code == 0
    assert "? [y/N]" in done.err
    assert Path(experiment.uri).exists() != is_deleted


def test_a_running_experiment_is_left_alone(program: Callable, make_experiment: Make) -> None:
    experiment = make_experiment(id="mine")
    experiment.lock()
    try:
        done = program("rm", "mine", "--yes")
    finally:
        experiment.unlock()
    assert done.code == 75
    assert "stop it first with `nanochat-sweep stop" in done.err
    assert Experiment.open(experiment.uri).id == "mine"


def test_a_damaged_experiment_can_be_deleted_and_another_programs_folder_cannot(
    program: Callable, make_experiment: Make, tmp_path: Path
) -> None:
    experiment = make_experiment(id="mine")
    manifest = Path(experiment.uri, "manifest.json")
    manifest.write_bytes(manifest.read_bytes()[:500])
    other = tmp_path / "site"
    other.mkdir()
    (other / "manifest.json").write_text('{"name": "a web page"}')
    (tmp_path / "link").symlink_to(experiment.uri)
    assert "its manifest.json is damaged or another program's" in program("rm", other, "--yes").err
    assert f"is a link to {experiment.uri}; give that folder" in program("rm", tmp_path / "link", "--yes").err
    assert (other / "manifest.json").exists()
    assert program("rm", "mine", "--yes").code == 0
    assert not manifest.exists()
