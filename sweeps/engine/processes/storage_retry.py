"""An outage of storage costs time, not a leg: what must be stored or read is tried again for a while.

Where patience ends, the exception says whose fault it was. It ends the attempt, but not the leg: such an attempt was
interrupted, and is continued.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from sweeps.spec.errors import SweepToolError, UsageError

T = TypeVar("T")

PATIENCE_S = 60.0
PAUSE_S = 2.0


class StorageLost(SweepToolError):
    """Storage refused what must be stored. The leg itself did nothing wrong, so it may be continued."""


def patiently(action: Callable[[], T], patience_s: float | None = None, pause_s: float | None = None) -> T:
    """Does it again while storage refuses, so that an outage of a minute costs a minute and no leg its place."""
    deadline = time.monotonic() + (PATIENCE_S if patience_s is None else patience_s)
    while True:
        try:
            return action()
        except (OSError, UsageError):  # an experiment that cannot be read is a UsageError
            if time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_S if pause_s is None else pause_s)


def or_lost(what: str, action: Callable[[], T]) -> T:
    """Does it patiently. Raises StorageLost, which begins with `what`, if storage refuses to the end."""
    try:
        return patiently(action)
    except (OSError, UsageError) as error:
        raise StorageLost(f"{what}: {error}") from error
