"""A rank of an attempt over real storage, with a group of one instead of Ray's."""

from collections.abc import Callable
from pathlib import Path

from nanochat.stats import CHECKPOINT_INDEX, Checkpoint
from sweeps.engine.ranks.rank import Rank, RankTask
from sweeps.records.experiment import Experiment

TRIAL = "static-b1"


class OneRank:
    """A group of one that writes checkpoints where the store has them."""

    def __init__(self, train: Path, attempt: int, is_first: bool = True) -> None:
        self.is_first, self.train, self.attempt = is_first, train, attempt
        self.on_write: Callable[[], None] = lambda: None
        self.reported: list[int] = []

    def agree(self, names: list[str]) -> list[str]:
        return names

    def report(self, step: int) -> None:
        self.reported.append(step)

    def write(self, checkpoint: Checkpoint) -> None:
        self.on_write()
        folder = self.train / f"a{self.attempt:03d}" / f"step_{checkpoint.step:06d}"
        folder.mkdir(parents=True)
        checkpoint.write(folder)

    def local_folder(self, name: str) -> Path:
        return self.train / name


class State:
    """A checkpoint of one file and its index."""

    def __init__(self, step: int) -> None:
        self.step = step

    def write(self, folder: Path) -> None:
        (folder / "state").write_text(str(self.step))
        (folder / CHECKPOINT_INDEX).write_text("{}")

    def together(self, action: Callable[[], object], *, first_only: bool = False) -> None:
        action()


def open_rank(experiment: Experiment, is_first: bool = True) -> tuple[Rank, OneRank]:
    record = experiment.trial(TRIAL)
    number = record.start_attempt(num_workers=1).number
    group = OneRank(Path(record.train_uri), number, is_first)
    return Rank(RankTask(experiment.uri, TRIAL, number), group), group


def stored_steps(experiment: Experiment) -> list[int]:
    return [row.step for row in experiment.trial(TRIAL).rows()]
