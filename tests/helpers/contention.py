"""Several threads that do one thing at the same moment."""

import threading
from collections.abc import Callable


def all_at_once(act: Callable[[Callable[[], object], int], object], number: int = 8) -> None:
    """Runs `act(gate, i)` in some threads and waits for all; a call of `gate` waits until all have called it."""
    barrier = threading.Barrier(number)
    threads = [threading.Thread(target=act, args=(barrier.wait, i)) for i in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
