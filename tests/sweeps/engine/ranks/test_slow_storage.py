"""No step waits for storage, however slow it is, and nothing is lost by that."""

import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from nanochat.stats import TrainResult
from sweeps.engine.ranks import waiting_rows
from sweeps.engine.ranks.rank import Rank, RankTask
from sweeps.records.documents import Manifest
from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow
from tests.helpers.ranks import TRIAL, OneRank, stored_steps
from tests.helpers.rows import stats_of
from tests.helpers.s3_server import S3Server, s3_server, use

NUM_STEPS = 40


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Generator[S3Server]:
    with s3_server() as server:
        server.make_bucket("bucket")
        use(server, monkeypatch)
        yield server
        server.gate.set()


def test_steps_go_on_while_storage_does_not_answer_and_all_rows_get_there(
    server: S3Server,
    make_manifest: Callable[..., Manifest],
    make_row: Callable[..., StepRow],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting_rows, "ROW_PART_S", 0.2)
    experiment = Experiment.create("s3://bucket/exps", "slow", make_manifest(1, "slow"))
    number = experiment.trial(TRIAL).start_attempt(num_workers=1).number
    rank = Rank(RankTask(experiment.uri, TRIAL, number), OneRank(tmp_path, number))
    hooks = rank.hooks()

    def train() -> None:
        for step in range(NUM_STEPS):
            time.sleep(0.02)
            assert not hooks.should_stop()
            hooks.on_step(stats_of(make_row(step)))

    training = threading.Thread(target=train, daemon=True)
    with rank.running():
        server.gate.clear()
        training.start()
        training.join(20)  # a request takes 30 s to fail
        has_ended = not training.is_alive()
        server.gate.set()
    assert has_ended
    result = TrainResult(
        last_step=NUM_STEPS - 1, completed=True, peak_mib=1, total_time_min=1, min_val_bpb=None, num_skipped=0
    )
    rank.finish(result)
    assert stored_steps(experiment) == list(range(NUM_STEPS))
