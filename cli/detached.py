"""`launch --detach`: the experiment is created here and run by a restore in a session of its own.

So a launch can outlive its terminal, and there is one way to run an experiment, not two. What the run says goes into
the experiment's folder.
"""

import os
import shlex
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from cli.console import error, note, out, waiting_for

if TYPE_CHECKING:
    from cli.running import LaunchOptions
    from sweeps.records.experiment import Experiment

LOG = "launcher.log"
START_TIMEOUT_S = 60.0
_MOST_SHOWN_BYTES = 2**16


def check_detachable(root: str, detach: bool, *, preflight: bool = False) -> None:
    """Raises UsageError where a detached run could not be: its log needs a local folder, a job's end would end it."""
    if not detach:
        return
    from sweeps.engine.processes.job import submitted_job
    from sweeps.records.store import Store
    from sweeps.spec.errors import UsageError

    if preflight:
        raise UsageError("--preflight is there to be watched, so it does not go with --detach; leave one of them out")
    if submitted_job() is not None:
        raise UsageError("--detach in a submitted job would be ended with the job; leave it out, the job is detached")
    if not Store(root).is_local:
        raise UsageError(f"--detach writes its log into the experiment's folder, and {root} is no local one")


def start_detached(experiment: "Experiment", options: "LaunchOptions", *, cluster: str) -> int:
    """Starts the run, and returns once it owns the experiment: 0. If it ends before that, its exit code."""
    log = experiment.store.local_path(LOG)  # of lines for people, whatever --events says
    with os.fdopen(experiment.store.open_log(LOG), "ab") as output:
        process = subprocess.Popen(
            # -P: what is in the working directory is not imported.
            [sys.executable, "-P", "-m", "cli.main", "restore", experiment.uri, *words_of(options, cluster)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    with waiting_for("the detached run to take the experiment"):
        while experiment.owner() is None and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
    if process.poll():
        with os.fdopen(experiment.store.open_file(LOG), "rb") as output:
            said = output.read(_MOST_SHOWN_BYTES).decode(errors="replace").strip()
        error(f"the detached run has ended:\n{said}")
        return process.returncode
    out(experiment.id)
    note(
        f"{experiment.id} runs as process {process.pid}; what it says is in {log}\n"
        f"watch it with: nanochat-sweep status {experiment.uri} --watch\n"
        f"stop it with:  nanochat-sweep stop {experiment.uri}"
    )
    return 0


def words_of(options: "LaunchOptions", cluster: str) -> list[str]:
    """The options on a command line again."""
    words = ["--address", cluster, "--grace-s", f"{options.grace_s}"]
    if options.stop_after_s is not None:
        words += ["--stop-after", f"{options.stop_after_s:.0f}s"]
    if options.adds_until_decided:
        words += ["--blocks", "auto"]
    if options.parallel is not None:
        words += ["--parallel", str(options.parallel)]
    if options.report_copy is not None:
        words += ["--report-to", str(options.report_copy.folder)]
        words += ["--commit"] if options.report_copy.commits else []
    words += ["--notify", shlex.join(options.notify)] if options.notify else []
    return words
