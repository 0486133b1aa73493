"""Hands Ray Tune the trials of a plan in exactly the plan's order, one at a time.

Tune's own grid search loses the order as soon as actors are reused, because it picks from a set. Here the next trial is
only suggested when the one before has ended.
"""

from typing import Any

from ray.tune.search import Searcher


class PlanOrder(Searcher):
    """The remaining trials of a plan, first to last. Tune passes arguments by name, so theirs are kept."""

    def __init__(self, tasks: list[dict[str, Any]]) -> None:
        super().__init__()
        self._waiting = list(tasks)
        self._running: set[str] = set()
        self._stopped = False

    @property
    def has_more(self) -> bool:
        """True if a trial is still to be suggested or runs."""
        return bool(self._running) or (bool(self._waiting) and not self._stopped)

    def stop(self) -> None:
        """Suggests nothing more; the trial that runs is left alone."""
        self._stopped = True

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """There is nothing to optimise, so any properties suit."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next trial's config; None while one runs; FINISHED when none is left."""
        if self._running:
            return None
        if self._stopped or not self._waiting:
            return Searcher.FINISHED
        self._running.add(trial_id)
        return self._waiting.pop(0)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Makes room for the next one, however the trial ended."""
        self._running.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to keep: storage says what is left to do."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was kept."""
