"""Signals that reach the process that is meant, or none.

The kernel uses a process number again, and the writer of a record can put any number into it. So a process is held
first, by a descriptor that never stands for another one. Then it is looked at: its mark, when it was started. If it is
the one that is meant, the signal goes through the descriptor.
"""

import os
import signal
from collections.abc import Callable


def signal_if(pid: int, number: int, is_meant: Callable[[int], bool]) -> bool:
    """Signals a process if `is_meant` says so of it. False if not, if it is gone, or if it is another user's."""
    if pid <= 0 or pid == os.getpid():  # 0 and negative numbers stand for groups of processes
        return False
    try:
        held = os.pidfd_open(pid)
    except (AttributeError, NotImplementedError, PermissionError):
        return _without_descriptor(pid, number, is_meant)
    except (OSError, OverflowError):
        return False
    try:
        if not is_meant(pid):
            return False
        signal.pidfd_send_signal(held, number)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(held)
    return True


def _without_descriptor(pid: int, number: int, is_meant: Callable[[int], bool]) -> bool:
    """For kernels that know no such descriptors: between look and signal lie microseconds."""
    try:
        if not is_meant(pid):
            return False
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError, OverflowError):
        return False
    return True
