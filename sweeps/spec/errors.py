"""Every error that the tool raises on purpose, as one tree; each class knows the exit code it ends the program with.

    SweepToolError      1    an internal failure that has a sentence
      UsageError        2    a command line that cannot be served
        SweepError      2    a sweep file, preset or setting that cannot be
      GateFailed        3    a gate's bound is exceeded
      GateUndecided     4    the measurements do not decide a gate yet, or may not be judged
      LegsFailed        5    some legs ended by their own error
      DriftError        6    the text is not what earlier legs of the experiment read
      CorruptData       7    stored data that cannot be trusted
      NoCluster        69    no cluster, or not enough GPUs
      StorageFailed    74    storage does not answer, or its disk is full
      Locked           75    another launch owns the experiment; try later
      Interrupted     130    stopped by SIGINT or by request
      Terminated      143    stopped by SIGTERM

The message is one sentence or a few: what was wrong, what was seen, what to do next.
"""

from typing import ClassVar


class SweepToolError(Exception):
    """The root: anything below it is printed as `error: ...`, without a traceback."""

    exit_code: ClassVar[int] = 1


class UsageError(SweepToolError):
    """A command line that cannot be served."""

    exit_code = 2


class SweepError(UsageError):
    """A sweep file, preset or setting that cannot be."""


class GateFailed(SweepToolError):
    """A gate's bound is exceeded."""

    exit_code = 3


class GateUndecided(SweepToolError):
    """The measurements do not decide a gate yet, or may not be judged."""

    exit_code = 4


class LegsFailed(SweepToolError):
    """Some legs ended by their own error."""

    exit_code = 5


class DriftError(SweepToolError):
    """The text or the tokenizer is not what earlier legs of the experiment read."""

    exit_code = 6


class CorruptData(SweepToolError):
    """Stored data that cannot be trusted."""

    exit_code = 7


class NoCluster(SweepToolError):
    """No cluster, or not enough GPUs."""

    exit_code = 69


class StorageFailed(SweepToolError):
    """Storage does not answer, or its disk is full; what is stored is safe."""

    exit_code = 74


class Locked(SweepToolError):
    """Another launch owns the experiment; try later."""

    exit_code = 75


class Interrupted(SweepToolError):
    """Stopped by SIGINT or by request."""

    exit_code = 130


class Terminated(SweepToolError):
    """Stopped by SIGTERM."""

    exit_code = 143
