"""Everything that reads a stored experiment, in this process: commands as typed, and what a launch or restore reads.

A command may end with any exit code that it has, and one sentence. What must not be: an exception that nobody expected,
an access outside, a signal, another experiment that is not listed as before, another leg that is not shown as before.
"""

import contextlib
import dataclasses
import io
import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer.main

from cli.choices import choose_to_drop, choose_to_retry
from cli.console import guarded
from cli.logs import current, trials_of
from cli.main import app
from cli.progress_table import Look, table_lines
from cli.running import planned_workers
from nanochat.config import ConfigError
from nanochat.stats import TextFacts
from sweeps.engine.cluster.checks import Resources, check_plan
from sweeps.engine.launch import outcome_of
from sweeps.engine.preflight import short_plan
from sweeps.engine.processes import scratch
from sweeps.engine.ranks.stacks import end_rank, places
from sweeps.engine.trials.driver import stored_trial
from sweeps.engine.trials.next_move import Policy, next_move
from sweeps.engine.trials.run import is_open
from sweeps.engine.watching.stop import StopState
from sweeps.engine.watching.stored_events import StoredEvents
from sweeps.records import liveness, lock
from sweeps.records.checkpoints import stored_checkpoints
from sweeps.records.continuation import choose_completed, drop_unfinished_copies
from sweeps.records.experiment import Experiment
from sweeps.records.provenance import WorkingTree
from sweeps.records.removal import check_removable
from sweeps.records.texts import check_text
from sweeps.results.decisions.growth import blocks_wanted
from sweeps.results.handoff import Machine, handoff_markdown
from sweeps.results.measures.progress import ProgressReader
from sweeps.results.measures.snapshot import read_snapshot
from sweeps.spec.errors import SweepToolError
from tests.fuzz.limits import LIMIT_S, TooSlow, place_of, time_limit
from tests.fuzz.memory import remember
from tests.fuzz.sandbox import OTHER, Sandbox

THOROUGH_EVERY = 50
ACTING = set(map(chr, (*range(9), *range(11, 32), *range(127, 160)))) | set("\u061c\u200e\u200f\u2028\u2029\ufeff")
ACTING |= set(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
TEXT = TextFacts(text_digest="aa", tokenizer_digest="bb", num_text_shards=1)


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


class Reader:
    """Reads the sandbox's experiments; `problems` returns what was wrong."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._problems: list[str] = []
        self._app = typer.main.get_command(app)
        remember()
        liveness.STALE_AFTER_S, lock.POLL_S = 0.0, 0.001  # a dead owner is known at the second look
        self._sound_list, self._sound = self._listed(), self._trials(self._command("status", self._victim, "--json"))
        self._snapshot = _fingerprint(self._victim)
        self._leg = list(self._sound)[1]
        if self._problems:
            raise ValueError(f"the sound experiment cannot be read: {self._problems}")

    @property
    def _victim(self) -> str:
        return str(self._sandbox.victim)

    def problems(self, changed: str, number: int) -> list[str]:
        """Reads all that reads the file `changed`; by `number` now and then also what reads as the rest does."""
        self._problems, thorough = [], number % THOROUGH_EVERY == 0
        try:
            with time_limit():
                shows = self._read_results(changed)
                if shows or thorough:
                    self._read_more(number if shows and not thorough else None)
                self._read_as_a_restore(_ROW_ACTS if changed.endswith(".jsonl") and not thorough else _ACTS)
        except TooSlow:
            self._problems.append(f"reading took more than {LIMIT_S:.0f} s")
        return self._problems

    def _read_results(self, changed: str) -> bool:
        """What everybody looks at; True if the change shows in results, so that other commands compute with it."""
        if self._listed().get(OTHER) != self._sound_list[OTHER]:
            self._problems.append("ls does not list the other experiment as before")
        said = self._command("status", self._victim, "--json")
        plain = self._command("status", self._victim)
        if plain.code != said.code:
            self._problems.append(f"status exits {plain.code}, status --json {said.code}")
        parts = changed.split("/")
        if parts[0] in ("trials", "summaries") and len(parts) > 1 + (parts[0] == "trials"):
            self._compare(parts[1].removesuffix(".json").removesuffix(".arrow"), said)
        if said.code != 0:
            return False
        return _fingerprint(self._victim) != self._snapshot

    def _compare(self, damaged: str, said: Said) -> None:
        """Damage of one trial is shown as that trial's."""
        if said.code != 0:
            self._problems.append(f"status exits {said.code} because of one trial: {said.err[-200:]}")
            return
        now = self._trials(said)
        leg = damaged.rpartition("-b")[0]
        wrong = [name for name, seen in self._sound.items() if name not in (damaged, leg) and now.get(name) != seen]
        if wrong:
            self._problems.append(f"status shows {wrong} otherwise than before")

    def _listed(self) -> dict[str, Any]:
        said = self._command("ls", "--json", "--storage", str(self._sandbox.storage))
        if said.code != 0:
            self._problems.append(f"ls exits {said.code}: {said.err[-300:]}")
            return {}
        return {entry["id"]: entry for entry in json.loads(said.out)["experiments"]}

    @staticmethod
    def _trials(said: Said) -> dict[str, Any]:
        return {trial["name"]: trial for trial in json.loads(said.out)["trials"]} if said.code == 0 else {}

    def _read_more(self, number: int | None) -> None:
        """Commands that compute with what is stored; by its number one of them, else all."""
        folder = str(self._sandbox.root / "out")
        commands = (
            ("report", self._victim, "--out-md", f"{folder}/r.md", "--out-html", f"{folder}/r.html"),
            ("export", self._victim, "--out", folder, "--csv"),
            ("gate", self._victim, "--json"),
            ("why", self._victim, self._leg),
            ("compare", str(self._sandbox.storage / OTHER), self._victim, "--json"),
            ("compare", self._victim, str(self._sandbox.storage / OTHER)),
            ("gate", self._victim),
            ("logs", self._victim),
            ("ls", "--storage", str(self._sandbox.storage)),
            ("clean", self._victim, "--yes"),
        )
        for words in commands if number is None else (commands[number % 5],):
            self._command(*words)
        for file in (Path(f"{folder}/r.md"), Path(f"{folder}/r.html")):
            if file.exists() and (found := ACTING & set(file.read_text(encoding="utf-8"))):
                self._problems.append(f"{file.name} holds {sorted(map(ascii, found))}")

    def _command(self, *words: str) -> Said:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _stdout_as_file(out):
            code = guarded(lambda: self._app.main(list(words), standalone_mode=False))
        said = Said(code, out.getvalue(), err.getvalue())
        if "error: internal error" in said.err or "Traceback (most" in said.err:
            self._problems.append(f"{words[0]} has a traceback: {said.err[-700:]}")
        if words[0] != "logs" and (acting := ACTING & set(said.out + said.err)):
            self._problems.append(f"{words[0]} prints {sorted(map(ascii, acting))}")
        if code not in (0, 2, 7) and words[0] not in ("gate", "compare"):
            self._problems.append(f"{words[0]} exits {code}")
        return said

    def _read_as_a_restore(self, acts: Sequence[Callable[[Experiment], None]]) -> None:
        try:
            experiment = Experiment.open(self._victim)
            trials = experiment.plan.trials
        except (SweepToolError, ConfigError):
            return
        for act in acts:
            self._guarded(act.__name__, lambda act=act: act(experiment))
        for trial in trials[:8]:
            for look in _LOOKS:
                self._guarded(look.__name__, lambda look=look, trial=trial: look(experiment, trial.name))

    def _guarded(self, name: str, act: Callable[[], object]) -> None:
        try:
            act()
        except (SweepToolError, ConfigError):
            pass
        except Exception as error:
            self._problems.append(f"{name}: {type(error).__name__}: {str(error)[:200]} {place_of(error)}")


def _fingerprint(uri: str) -> list[object]:
    """What results are made of; equal if the change is to be seen nowhere."""
    snapshot = read_snapshot(Experiment.open(uri))
    manifest = dataclasses.replace(snapshot.manifest, git_diff=None)
    seen: list[object] = [
        snapshot.state,
        snapshot.preflight,
        manifest,
        snapshot.calibration,
        snapshot.stale_calibrations,
    ]
    for trial in snapshot.trials:
        facts = (trial.state, trial.attempts, trial.result, trial.origin, trial.imported, trial.damage, trial.summary)
        seen += [repr(facts), trial.steps.table]
    return seen


@contextlib.contextmanager
def _stdout_as_file(out: io.StringIO) -> Generator[None]:
    """`logs` copies bytes below the text layer."""
    out.buffer = io.BytesIO()  # pyright: ignore[reportAttributeAccessIssue]
    yield


def _owner(experiment: Experiment) -> None:
    experiment.owner()
    experiment.state()


def _live_table(experiment: Experiment) -> None:
    table_lines(ProgressReader(experiment).read(), Look())


def _events(experiment: Experiment) -> None:
    watch = StoredEvents(experiment)
    watch.unready()
    for seen in watch._seen.values():  # pyright: ignore[reportPrivateUsage] - as if nothing were told yet
        seen.settled, seen.num_known, seen.num_ended, seen.num_started, seen.num_training = False, 0, 0, 0, 0
    for event in watch.poll():
        str(event)
    watch.unready()


def _choices(experiment: Experiment) -> None:
    states = experiment.trial_states()
    leg_of = {trial.name: trial.leg.name for trial in experiment.plan.trials}
    choose_to_retry(states, leg_of, None)
    with contextlib.suppress(SweepToolError):
        choose_to_drop(states, leg_of, [experiment.plan.baseline.name])
    outcome_of(states, StopState(1.0, None), experiment.refusal())
    current(trials_of(experiment, None))


def _start_checks(experiment: Experiment) -> None:
    with contextlib.suppress(SweepToolError):
        check_plan(experiment.plan, planned_workers(experiment.plan, None), Resources(None, 0, "this machine"))
    short_plan(experiment.plan)
    experiment.stop_requested()
    experiment.has_grown()


def _text(experiment: Experiment) -> None:
    for source in dict.fromkeys(trial.config.data.source for trial in experiment.plan.trials):
        check_text(experiment, source, TEXT)


def _handoff(experiment: Experiment) -> None:
    place = WorkingTree(folder="x", branch=None, commit=None, has_changes=None)
    machine = Machine(host="x", checkout=place, environment="x", python="3", num_gpus=None, busy=(), runner=None)
    handoff_markdown(read_snapshot(experiment), machine)


def _growth(experiment: Experiment) -> None:
    blocks_wanted(read_snapshot(experiment))


def _continue_from(experiment: Experiment) -> None:
    choose_completed(experiment, experiment.plan, {None: TEXT})


def _removal(experiment: Experiment) -> None:
    check_removable(experiment.uri)


def _takeover(experiment: Experiment) -> None:
    experiment.lock()
    try:
        experiment.clear_requests()
        experiment.set_aside_damaged()
    finally:
        experiment.unlock()
    drop_unfinished_copies(experiment)


def _ranks(experiment: Experiment, trial: str) -> None:
    for attempt in (0, 1):
        for place in places(experiment.store, trial, attempt):
            end_rank(place, "0123456789abcdef.0123456789abcdef")
            scratch.remove_left(place.pid, place.started)


def _checkpoints(experiment: Experiment, trial: str) -> None:
    stored_checkpoints(experiment.trial(trial).train_store)


def _log(experiment: Experiment, trial: str) -> None:
    experiment.trial(trial).log_tail()


def _move(experiment: Experiment, trial: str) -> None:
    record = experiment.trial(trial)
    is_open(record)
    next_move(stored_trial(experiment, record, 0), Policy())
    record.stored_digest()
    record.is_time_up(0)


_ROW_ACTS = (_live_table, _events, _growth, _handoff)
_ACTS = (_owner, _live_table, _events, _choices, _start_checks, _text, _continue_from, _removal, _takeover)
_LOOKS = (_ranks, _checkpoints, _log, _move)
