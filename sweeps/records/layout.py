"""Where the files of a trial are in its experiment. Only this file spells those paths."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrialFolders:
    """The folders and files of one trial, relative to the experiment."""

    trial: str

    @property
    def root(self) -> str:
        """All of it."""
        return f"trials/{self.trial}"

    @property
    def config(self) -> str:
        """The resolved config, a file."""
        return f"{self.root}/trial.json"

    @property
    def attempts(self) -> str:
        """One document per attempt."""
        return f"{self.root}/attempts"

    @property
    def rows(self) -> str:
        """Immutable parts of rows."""
        return f"{self.root}/rows"

    @property
    def train(self) -> str:
        """Ray Train's storage: a folder per attempt, with its checkpoints."""
        return f"{self.root}/train"

    @property
    def stacks(self) -> str:
        """Which process each rank is, and where each was when one hung."""
        return f"{self.root}/stacks"

    @property
    def log(self) -> str:
        """The whole output of all ranks, a file."""
        return f"{self.root}/log.txt"

    @property
    def result(self) -> str:
        """The file that makes the trial completed."""
        return f"{self.root}/result.json"

    @property
    def summary(self) -> str:
        """What its rows amount to, a file that can be made again."""
        return f"summaries/{self.trial}.json"

    @property
    def kept_steps(self) -> str:
        """Its rows by column, a file that can be made again."""
        return f"summaries/{self.trial}.arrow"

    @property
    def times_up(self) -> str:
        """Per attempt that has used up its leg's time, an empty file."""
        return f"{self.root}/times_up"

    @property
    def drop(self) -> str:
        """That a person gave the trial up, a file."""
        return f"{self.root}/drop.json"

    @property
    def imported(self) -> str:
        """Which log the trial was read from, a file; only if it was not run here."""
        return f"{self.root}/imported.json"

    @property
    def origin(self) -> str:
        """Which experiment ran the trial, a file; only if it was another one."""
        return f"{self.root}/origin.json"
