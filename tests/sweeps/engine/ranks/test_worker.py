"""Checkpoints get into storage as a whole, wherever it is; of a failed one nothing is left."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nanochat.stats import CHECKPOINT_INDEX
from sweeps.engine.ranks.worker import store_checkpoint, upload
from sweeps.records.store import Store
from tests.helpers.buckets import ROOT, bucket_in_memory


class RankState:
    """What one of two ranks has: its own file, and the first one the file that is last."""

    step = 3

    def __init__(self, rank: int, refuse: bool = False) -> None:
        self.rank, self.refuse = rank, refuse

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f".rank_{self.rank}").write_text("a rank's values")
        if self.refuse:
            raise OSError(28, "No space left on device")
        if self.rank == 0:
            (folder / CHECKPOINT_INDEX).write_text("complete")

    def together(self, action: Callable[[], object], *, first_only: bool = False) -> None:
        if self.rank == 0 or not first_only:
            action()


def test_the_ranks_folders_become_one_and_the_index_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[list[str]] = []
    bucket_in_memory(monkeypatch)
    store, names = Store(ROOT), {".rank_0", ".rank_1", CHECKPOINT_INDEX}
    place = store.below("step_000003")

    class Watched(RankState):
        def together(self, action: Callable[[], object], *, first_only: bool = False) -> None:
            super().together(action, first_only=first_only)
            order.append(place.everything())

    for rank in (1, 0):
        state = Watched(rank)
        state.write(tmp_path / str(rank))
        upload(tmp_path / str(rank), store, "step_000003", state)
    assert place.everything() == sorted(names)
    assert order == [[".rank_1"], [".rank_1"], [".rank_0", ".rank_1"], sorted(names)]


def test_of_a_checkpoint_that_cannot_be_stored_nothing_is_left(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store_checkpoint(RankState(0), store, "a000/step_000002", removes=True)
    with pytest.raises(OSError, match="No space left"):
        store_checkpoint(RankState(0, refuse=True), store, "a000/step_000003", removes=True)
    assert store.list("a000") == ["step_000002"]
    assert (tmp_path / "a000/step_000002" / CHECKPOINT_INDEX).read_text() == "complete"


def test_a_complete_checkpoint_outlives_what_follows_it(tmp_path: Path) -> None:
    class LostAfterwards(RankState):
        def write(self, folder: Path) -> None:
            super().write(folder)
            raise RuntimeError("connection closed by peer")

    store = Store(str(tmp_path))
    with pytest.raises(RuntimeError, match="closed by peer"):
        store_checkpoint(LostAfterwards(0), store, "a000/step_000003", removes=True)
    assert (tmp_path / "a000/step_000003" / CHECKPOINT_INDEX).read_text() == "complete"


def test_a_rank_that_does_not_write_the_index_removes_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(OSError, match="No space left"):
        store_checkpoint(RankState(1, refuse=True), store, "a000/step_000003", removes=False)
    assert store.list("a000") == ["step_000003"]  # the first rank can be about to complete it
