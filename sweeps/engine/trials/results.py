"""Results are regenerated next to the loop that watches a run, so that a stop or a hung leg is seen meanwhile.

One thread, one regeneration at a time: legs that end during one are covered by a single further one. It reads storage
through an experiment object that only it uses, because the main thread's can grow by a block at any moment.
"""

import threading
from collections.abc import Callable

from sweeps.records.experiment import Experiment

LONGEST_END_S = 60.0  # how long the end of a run waits for a regeneration that has begun


class ResultsThread:
    """Calls `refresh` after `ask`, on a thread that ends with `close`."""

    def __init__(self, experiment: Experiment, refresh: Callable[[Experiment], None]) -> None:
        self._experiment = Experiment(experiment.store, experiment.manifest)
        self._refresh = refresh
        self._changed = threading.Condition()
        self._is_asked = self._is_closed = False
        self._thread: threading.Thread | None = None

    def ask(self) -> None:
        """Has the results regenerated soon; returns at once."""
        with self._changed:
            self._is_asked = True
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="results", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Waits for a regeneration that has begun; one that was only asked for is left out."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(LONGEST_END_S)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_asked or self._is_closed)
                if self._is_closed:
                    return
                self._is_asked = False
            self._experiment.has_grown()
            self._refresh(self._experiment)
