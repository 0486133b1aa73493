"""What launch, restore and retry share: checking the options of a run, and running what is left of an experiment."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from cli.options import Address, Commit, Events, Grace, Notify, ReportTo, StopAfter

if TYPE_CHECKING:
    from sweeps.engine.watching.events import Event
    from sweeps.records.experiment import Experiment
    from sweeps.results.measures.snapshot import Snapshot
    from sweeps.results.report.publish import ReportCopy
    from sweeps.spec.parts import Parallel
    from sweeps.spec.plan import Plan


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """How to run, checked; what to run is the experiment's."""

    grace_s: float
    stop_after_s: float | None = None
    report_copy: "ReportCopy | None" = None
    num_blocks: int = 1  # to which the experiment grows, if it has fewer
    adds_until_decided: bool = False  # further blocks, one at a time
    parallel: "Parallel | Literal['off']" = None  # blocks at a time, each on one node; None: as planned
    prints_events: bool = False  # as JSON, on stdout
    notify: tuple[str, ...] | None = None  # a command that is run for some events


@dataclass(frozen=True, kw_only=True)
class RunChoices:
    """How to run, as typed."""

    address: Address = None
    grace_s: Grace = 60.0
    stop_after: StopAfter = None
    events: Events = None
    notify: Notify = None

    def checked(self, blocks: str = "1", parallel: str | None = None) -> LaunchOptions:
        """Raises UsageError for a time, a number of blocks or a command that cannot be."""
        from cli.announcing import checked_command
        from cli.choices import AUTO, changed_parallel, first_blocks
        from sweeps.spec.duration import check_seconds, seconds_of
        from sweeps.spec.errors import UsageError

        check_seconds("--grace-s", self.grace_s, f"{self.grace_s:g}")
        if self.events not in (None, "json"):
            raise UsageError(f"--events takes json, got {self.events!r}")
        return LaunchOptions(
            grace_s=self.grace_s,
            stop_after_s=seconds_of("--stop-after", self.stop_after),
            num_blocks=first_blocks(blocks),
            adds_until_decided=blocks == AUTO,
            parallel=None if parallel is None else changed_parallel(parallel),
            prints_events=self.events == "json",
            notify=checked_command(self.notify),
        )


@dataclass(frozen=True, kw_only=True)
class ReportedRunChoices(RunChoices):
    """How to run, and where to copy the report."""

    report_to: ReportTo = None
    commit: Commit = False

    def checked(self, blocks: str = "1", parallel: str | None = None) -> LaunchOptions:
        """Raises UsageError as RunChoices does, and for a place where no report can be."""
        return replace(super().checked(blocks, parallel), report_copy=self._report_copy())

    def _report_copy(self) -> "ReportCopy | None":
        from sweeps.engine.processes.job import check_place, submitted_job
        from sweeps.records.home import check_on_disk
        from sweeps.results.report.publish import ReportCopy
        from sweeps.spec.errors import UsageError

        if self.report_to is None:
            if self.commit:
                raise UsageError(
                    "--commit needs --report-to DIR: the folder, in a git repository, where the report is shown"
                )
            return None
        check_on_disk("--report-to", self.report_to)
        check_place("--report-to", str(self.report_to), submitted_job())
        copy = ReportCopy(self.report_to.expanduser().absolute(), commits=self.commit)
        copy.check()
        return copy


def check_places(storage: str | None, exp: str | None = None) -> None:
    """Raises UsageError where this is a submitted job and a place that was given is relative."""
    from sweeps.engine.processes.job import check_place, submitted_job

    job = submitted_job()
    variable = "NANOCHAT_SWEEP_STORAGE"
    check_place(*(("--storage", storage) if storage else (variable, os.environ.get(variable))), job)
    if exp and (exp.startswith(".") or "/" in exp):
        check_place("EXP", exp, job)


def check_can_run(experiment: "Experiment") -> None:
    """Raises UsageError for an experiment that was imported from logs: another trainer ran its legs."""
    from sweeps.records.home import typed_name
    from sweeps.spec.errors import UsageError

    if experiment.manifest.imported_from is not None:
        raise UsageError(
            f"{experiment.id} was imported from logs and has nothing to run; run the legs that it lacks with "
            f"nanochat-sweep launch SWEEP --continue-from {typed_name(experiment.uri)}"
        )


def run_and_tell(
    experiment: "Experiment",
    options: LaunchOptions,
    *,
    cluster: str,
    num_workers: int,
    preflight: bool | None = False,
    retry: Sequence[str] = (),
    drop: Sequence[str] = (),
) -> int:
    """Run what is left of an experiment, with the failed trials in `retry`, without those in `drop`; the exit code.

    What happens goes to stderr, the results' places to stdout; with --events json the events, one a line.
    """
    from cli.announcing import announcing
    from cli.live import telling
    from cli.texts import check_texts
    from sweeps.engine.launch import run_experiment
    from sweeps.engine.trials.context import LaunchContext
    from sweeps.records.continuation import drop_unfinished_copies

    drop_unfinished_copies(experiment)
    check_texts(experiment, cluster)
    with (
        telling(experiment, plainly=options.prints_events) as shown,
        announcing(shown, experiment.id, as_json=options.prints_events, command=options.notify) as tell,
    ):
        context = LaunchContext(
            on_event=tell,
            refresh=_Refresh(options.report_copy, tell),
            address=cluster,
            num_workers=num_workers,
            grace_s=options.grace_s,
            stop_after_s=options.stop_after_s,
            preflight=preflight,
            retry=retry,
            drop=drop,
            grow=lambda e: _grow(e, options),
            grow_ahead=lambda e, ahead: _grow(e, options, ahead),
            parallel=options.parallel,
        )
        outcome = run_experiment(experiment, context)
    if not options.prints_events:
        _print_places(experiment)
    return outcome.exit_code


def _print_places(experiment: "Experiment") -> None:
    from cli.console import out

    for place in ("report/report.md", "report/report.html", "export/legs.parquet", "export/steps.parquet"):
        if experiment.store.exists(place):
            out(experiment.store.uri_of(place))


def _grow(experiment: "Experiment", options: LaunchOptions, ahead: int = 1) -> bool:
    """Adds the blocks that were asked for, or one more while the gates are undecided. False if there are enough.

    `ahead`: how many blocks there may be beyond the complete ones.
    """
    from sweeps.results.decisions.growth import blocks_wanted
    from sweeps.results.measures.snapshot import read_snapshot

    present = experiment.plan.num_blocks
    wanted = blocks_wanted(read_snapshot(experiment), ahead) if options.adds_until_decided else options.num_blocks
    if wanted <= present:
        return False
    experiment.grow(wanted)
    return True


class _Refresh:
    """Brings tables, report and the report's copy up to date; says once which trial diverged, and each new verdict."""

    def __init__(self, report_copy: "ReportCopy | None", tell: "Callable[[Event], None]") -> None:
        self._report_copy, self._tell = report_copy, tell
        self._diverged: set[str] = set()
        self._verdict: Event | None = None

    def __call__(self, experiment: "Experiment") -> None:
        """A copy that fails is a warning."""
        from sweeps.engine.watching.events import Warned
        from sweeps.results.decisions.keeping import keep_calibration
        from sweeps.results.report.build import refresh
        from sweeps.spec.errors import SweepToolError

        snapshot = refresh(experiment)
        keep_calibration(experiment, snapshot)
        for trial in snapshot.trials:
            if trial.diverged is not None and trial.run not in self._diverged:
                self._diverged.add(trial.run)
                self._tell(Warned(message=f"{trial.run} diverged: {trial.diverged}"))
        self._tell_verdict(snapshot)
        if self._report_copy is not None:
            try:
                self._report_copy.publish(experiment)
            except (OSError, SweepToolError) as error:
                self._tell(Warned(message=f"the report's copy was not updated: {error}; the next leg tries again"))

    def _tell_verdict(self, snapshot: "Snapshot") -> None:
        """What the gates say, if that is final for now and was not said yet."""
        from sweeps.engine.watching.events import Verdict
        from sweeps.records.documents import SETTLED_STATES
        from sweeps.results.decisions.conclusion import conclude
        from sweeps.results.decisions.judgement import judge
        from sweeps.results.decisions.phrase import text_of

        judgement = judge(snapshot)
        is_over = all(trial.state in SETTLED_STATES for trial in snapshot.trials)
        if not judgement.gates or not (judgement.is_decided or is_over):
            return
        found = conclude(snapshot, judgement)
        verdict = Verdict(word=found.word, sentence=text_of(found.sentence), exit_code=judgement.exit_code)
        if verdict != self._verdict:
            self._verdict = verdict
            self._tell(verdict)


def planned_workers(plan: "Plan", asked: int | None) -> int:
    """The workers to run with: what the command line says, else the plan; refused where the batch does not divide."""
    from nanochat.config import ConfigError
    from nanochat.sizes import check_world_size
    from sweeps.spec.errors import UsageError

    if asked is None:
        return plan.num_workers
    if asked < 1:
        raise UsageError(f"--num-workers must be at least 1, got {asked}")
    for trial in plan.trials:
        try:
            check_world_size(trial.config, asked)
        except ConfigError as error:
            raise UsageError(f"--num-workers {asked}: {error}") from None
    return asked
