"""What a person who watches a running experiment reads, one event and one plain line at a time."""

from dataclasses import dataclass
from pathlib import Path

from sweeps.spec.words import counted


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something happened. `str(event)` is its line."""


@dataclass(frozen=True, kw_only=True)
class ExperimentStarted(Event):
    """The cluster is up and the first leg is about to start."""

    id: str
    uri: str
    num_trials: int
    num_completed: int
    num_workers: int
    where: str  # "on 2 CPU processes", "on 8 GPUs"

    def __str__(self) -> str:
        done = f", {self.num_completed} already completed" if self.num_completed else ""
        trials = counted(self.num_trials, "trial")
        return f"experiment {self.id}: {trials}{done}, {self.where}; {self.uri}"


@dataclass(frozen=True)
class Place:
    """A trial and where it stands in the plan, counted from 1."""

    trial: str
    position: int
    num_trials: int


@dataclass(frozen=True, kw_only=True)
class LegEvent(Event):
    """Something happened to one trial."""

    at: Place

    def line(self, text: str) -> str:
        """The event's line, with the leg in front."""
        return f"[{self.at.position}/{self.at.num_trials}] {self.at.trial}: {text}"


@dataclass(frozen=True, kw_only=True)
class LegStarted(LegEvent):
    """A worker group is being started for an attempt."""

    attempt: int
    num_earlier: int = 0  # attempts of the trial
    node: str | None = None  # that its block is bound to

    def __str__(self) -> str:
        how = f"starts again (attempt {self.attempt})" if self.num_earlier else "starts"
        return self.line(how if self.node is None else f"{how} on {self.node}")


@dataclass(frozen=True, kw_only=True)
class LegTraining(LegEvent):
    """The trainer has built the model and takes its first step."""

    device_name: str
    world_size: int
    first_step: int
    num_steps: int

    def __str__(self) -> str:
        begin = f"continues at step {self.first_step}" if self.first_step else "trains"
        ranks = "1 rank" if self.world_size == 1 else f"{self.world_size} ranks"
        return self.line(f"{begin}, {self.num_steps} steps on {ranks} of {self.device_name}")


@dataclass(frozen=True, kw_only=True)
class LegUncompiled(LegEvent):
    """Compiling failed and the leg continues without: it is no longer what the plan says, and is compared with none."""

    reason: str

    def __str__(self) -> str:
        return self.line(f"could not be compiled, runs uncompiled: {self.reason}")


@dataclass(frozen=True, kw_only=True)
class LegAdvanced(LegEvent):
    """Rows of a running leg have reached storage."""

    step: int
    num_steps: int
    loss: float
    tok_per_sec: float

    def __str__(self) -> str:
        return self.line(f"step {self.step}/{self.num_steps}, loss {self.loss:.4f}, {self.tok_per_sec:,.0f} tok/s")


@dataclass(frozen=True, kw_only=True)
class LegCheckpointed(LegEvent):
    """A checkpoint is complete: a restart would continue at `step`."""

    step: int

    def __str__(self) -> str:
        return self.line(f"checkpoint at step {self.step}")


@dataclass(frozen=True, kw_only=True)
class LegCompleted(LegEvent):
    """The result is in storage; the leg will never run again."""

    num_steps: int
    loss: float
    tok_per_sec: float
    total_time_min: float

    def __str__(self) -> str:
        return self.line(f"completed, {self.num_steps} steps, loss {self.loss:.4f}, {self.tok_per_sec:,.0f} tok/s")


@dataclass(frozen=True, kw_only=True)
class LegStopped(LegEvent):
    """The leg obeyed a stop request; a restore continues it."""

    attempt: int
    next_step: int

    def __str__(self) -> str:
        return self.line(f"stopped as asked before step {self.next_step}; a restore continues it")


@dataclass(frozen=True, kw_only=True)
class LegInterrupted(LegEvent):
    """A worker was lost, not by the leg's own error."""

    attempt: int
    message: str

    def __str__(self) -> str:
        return self.line(f"interrupted in attempt {self.attempt}: {self.message}")


@dataclass(frozen=True, kw_only=True)
class LegFailed(LegEvent):
    """The leg ended by its own error; the others continue."""

    error: str
    log: Path | None
    tail: tuple[str, ...]

    def __str__(self) -> str:
        lines = [self.line(f"failed: {self.error}")]
        if self.log is not None:
            lines.append(f"  its log: {self.log}")
        return "\n".join(lines + [f"  | {line}" for line in self.tail])


@dataclass(frozen=True, kw_only=True)
class PreflightEnded(LegEvent):
    """A leg's preflight, a few steps before the launch, has ended."""

    is_ok: bool
    text: str

    def __str__(self) -> str:
        return f"preflight {self.line(self.text)}"


@dataclass(frozen=True, kw_only=True)
class BlockBound(Event):
    """A block has got a node to itself, where its legs run one after the other."""

    block: int
    node_id: str
    host: str
    again: tuple[str, ...] = ()  # completed legs that run again, because they ran on a node that is lost
    has_moved: bool = False

    def __str__(self) -> str:
        text = f"block {self.block} {'moves to' if self.has_moved else 'runs on'} {self.host} (node {self.node_id[:8]})"
        return f"{text}; to run again there: {', '.join(self.again)}" if self.again else text


@dataclass(frozen=True, kw_only=True)
class Stopping(Event):
    """A stop was asked for; the running leg gets `grace_s` to write a checkpoint."""

    reason: str
    grace_s: float

    def __str__(self) -> str:
        return (
            f"{self.reason}: the running leg stops after its step and writes a checkpoint "
            f"(up to {self.grace_s:.0f} s; a second signal stops at once)"
        )


@dataclass(frozen=True, kw_only=True)
class Waiting(Event):
    """A leg, or the launcher itself, cannot continue before something else happens."""

    what: str
    seconds: float  # so far
    at: Place | None = None

    def __str__(self) -> str:
        text = f"waiting for {self.what} ({self.seconds:.0f} s)"
        return text if self.at is None else f"[{self.at.position}/{self.at.num_trials}] {self.at.trial}: {text}"


@dataclass(frozen=True, kw_only=True)
class Warned(Event):
    """Something is not as it should be, but the experiment continues."""

    message: str

    def __str__(self) -> str:
        return f"warning: {self.message}"


@dataclass(frozen=True, kw_only=True)
class Refused(Event):
    """No leg can be started here now; the experiment ends."""

    message: str

    def __str__(self) -> str:
        return f"error: {self.message}"


@dataclass(frozen=True, kw_only=True)
class Verdict(Event):
    """What the gates say, now that more blocks cannot change it or nothing is left to run."""

    word: str
    sentence: str
    exit_code: int  # of `gate`

    def __str__(self) -> str:
        return f"verdict: {self.word}: {self.sentence}"


@dataclass(frozen=True, kw_only=True)
class ExperimentEnded(Event):
    """Nothing more will run now."""

    id: str
    typed: str  # what names the experiment on a command line
    num_trials: int
    num_completed: int
    failed: tuple[str, ...]
    unfinished: tuple[str, ...]
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        line = f"experiment {self.id}: {self.num_completed} of {counted(self.num_trials, 'trial')} completed"
        if self.failed:
            line += f"; failed: {', '.join(self.failed)} (after a fix: nanochat-sweep retry {self.typed})"
        if self.dropped:
            line += f"; dropped: {', '.join(self.dropped)}"
        if self.unfinished:
            line += f"; to do: {', '.join(self.unfinished)} (continue with: nanochat-sweep restore {self.typed})"
        return line
