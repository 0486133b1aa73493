"""How a run ends by its own error under torchrun: with one sentence, and as little around it as torchrun allows.

torchrun adds its own call stack, which a rank cannot prevent (`--rdzv-backend=loopback` can, as torchrun loads it), and
a summary of every rank that did not exit with 0: what that rank left in its error file. So the file holds the sentence,
and if all ranks have the same error, one rank of each machine prints it while the others exit with 0.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Literal

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

Whose = Literal["the command line", "all ranks", "this rank"]

LAUNCHER_S = 20.0  # within which torchrun ends the other ranks once one has failed
LEAVE_S = 10.0  # for the other ranks of this machine to read the command line and exit


def end_by(sentence: str, exit_code: int, whose: Whose, is_asked_to_end: Callable[[], bool]) -> int:
    """Tells why the run ends; returns this rank's exit code.

    An error of the command line is certain to be every rank's. One of all ranks only should be: there the rank that
    tells it ends first, and torchrun asks the others to end. A rank that is not asked to tells it, too.
    """
    is_teller = whose == "this rank" or os.environ.get("LOCAL_RANK", "0") == "0"
    if not is_teller and (whose == "the command line" or _within(LAUNCHER_S, is_asked_to_end)):
        return 0
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    _leave_for_summary(sentence)
    if whose == "the command line":
        _let_others_leave(LEAVE_S)  # else torchrun ends them as they start, and lists each as failed
    return exit_code


def end_launcher_quietly() -> None:
    """Called in torchrun's own process: failed ranks, or a signal, get a line each in place of torchrun's call stack.

    What went wrong is on stderr already, by the ranks themselves.
    """
    sys.excepthook = _print_failed_ranks


def _print_failed_ranks(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if isinstance(error, ChildFailedError):
        for rank, failure in sorted(error.failures.items()):
            print(f"torchrun: rank {rank} {ended(failure.exitcode)}", file=sys.stderr, flush=True)
    elif isinstance(error, SignalException):
        print(f"torchrun: ended by {error.sigval.name}", file=sys.stderr, flush=True)
    else:
        sys.__excepthook__(kind, error, traceback)


def ended(exit_code: int) -> str:
    """How a process ended; torchrun counts a signal as a negative exit code."""
    return f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with exit code {exit_code}"


def _within(timeout_s: float, happens: Callable[[], bool]) -> bool:
    """Waits until it happens; False if it does not in this time."""
    deadline = time.monotonic() + timeout_s
    while not happens():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _leave_for_summary(sentence: str) -> None:
    """Writes the file that torchrun names, in the form that it reads."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file is None:
        return
    more = {"py_callstack": sentence, "timestamp": str(int(time.time()))}
    Path(file).write_text(json.dumps({"message": {"message": sentence, "extraInfo": more}}))


def _let_others_leave(timeout_s: float) -> None:
    """Waits until torchrun's other processes are gone; not at all if there is no torchrun, or no such list."""
    children = Path(f"/proc/{os.getppid()}/task/{os.getppid()}/children")
    if "TORCHELASTIC_RUN_ID" not in os.environ or not children.exists():
        return
    _within(timeout_s, lambda: children.read_text().split() == [str(os.getpid())])
