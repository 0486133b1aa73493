"""Two small experiments that between them have every document: made as launches make them, without training.

One is to be damaged, the other to be read meanwhile. A recorded experiment can take the place of the first.
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path

from nanochat.config import with_overrides
from nanochat.loop.waiting import Landmarks
from nanochat.recipes import d12_moe_fp8, shrink_to_tiny
from sweeps.engine.preflight import create_preflight
from sweeps.engine.ranks.stacks import RankPlace, stacks_folder, store_stacks
from sweeps.records.calibrations import MEASURED, USED
from sweeps.records.documents import AttemptError, Imported, Origin, TrialResult, to_bytes, utc_now
from sweeps.records.experiment import Experiment
from sweeps.records.owner import process_started
from sweeps.records.provenance import new_manifest, running_code
from sweeps.records.trial import TrialRecord
from sweeps.results.measures.snapshot import read_snapshot
from sweeps.spec import Axis, Gate, Sweep, TailWindow
from sweeps.spec.plan import Plan, make_plan
from tests.fuzz.sandbox import BIG_BYTES, OTHER, VICTIM
from tests.helpers.calibrations import calibration
from tests.helpers.rows import row, start_facts

NUM_STEPS = 24


def fill(storage: Path, recorded: Path | None = None) -> None:
    """Makes both experiments; the one to be damaged from the files of `recorded`, if there is one."""
    if recorded is None:
        _everything(Experiment.create(str(storage), VICTIM, new_manifest(_plan(), id=VICTIM, argv=["x"], settings={})))
    else:
        shutil.copytree(recorded, storage / VICTIM, ignore=_big_files)
        read_snapshot(Experiment.open(str(storage / VICTIM)), keep=True)
    other = Experiment.create(str(storage), OTHER, new_manifest(_plan(), id=OTHER, argv=["x"], settings={}))
    _complete(other.trials()[0], num_rows=12)


def _big_files(folder: str, names: list[str]) -> list[str]:
    return [
        name for name in names if os.path.isfile(f"{folder}/{name}") and os.path.getsize(f"{folder}/{name}") > BIG_BYTES
    ]


def _plan() -> Plan:
    sweep = Sweep(
        name="fuzz",
        question="Does it hold?",
        base=with_overrides(shrink_to_tiny(d12_moe_fp8(num_steps=NUM_STEPS)), {"eval.num_tokens": 1024}),
        num_workers=2,
        axes=[Axis("moe.capacity_factor", [None, 1.0, 1.5, 2.0])],
        baseline={"moe.capacity_factor": None},
        candidate={"moe.capacity_factor": 1.0},
        window=TailWindow(num_steps=10),
        gates=[Gate("tok_per_sec", improves="baseline"), Gate("loss", at_most=1.01)],
        leg_name=lambda config: f"cap_{config.moe and config.moe.capacity_factor}",
    )
    return make_plan(sweep)


def _everything(experiment: Experiment) -> None:
    """Legs that completed, failed, were dropped and are running, each with all that a leg can leave."""
    experiment.lock()
    short = create_preflight(experiment)
    completed, interrupted, failed, imported = experiment.trials()
    _complete(short.trials()[0], num_rows=3)
    _complete(completed)
    origin = Origin(experiment="20250101_120000_older", git_commit="c0ffee", copied_utc=utc_now())
    experiment.store.write(completed.folders.origin, to_bytes(origin))
    _interrupt(experiment, interrupted)
    error = AttemptError(type="ValueError", message="a loss of nan", traceback="Traceback")
    attempt = failed.start_attempt(num_workers=2)
    failed.update_attempt(dataclasses.replace(attempt, end="failed", error=error, ended_utc=utc_now(), run_s=3.0))
    failed.drop()
    failed.undo_drop()
    imported.write_imported(_log())
    imported.append_rows(0, [row(step, trial=imported.name) for step in range(5)])
    for file in (MEASURED, USED):
        experiment.store.write(file, to_bytes(calibration(experiment=experiment.id)))
    experiment.store.write("blocks.json", b'{"schema": "nanochat-sweep/growth/1", "num_blocks": 1}\n')
    experiment.request_stop("a test")
    experiment.refuse("a test", 69)
    experiment.unlock()
    read_snapshot(experiment, keep=True)


def _log() -> Imported:
    return Imported(
        file="logs/a.log",
        sha256="0" * 64,
        first_line=1,
        last_line=9,
        state="interrupted",
        error="an error",
        num_attempts=1,
        num_skipped_lines=1,
        command=["--depth", "12"],
        why_no_config=None,
        facts={"device_name": "toy", "num_params": 7},
        started_utc=utc_now(),
    )


def _complete(record: TrialRecord, num_rows: int = NUM_STEPS) -> None:
    attempt = record.start_attempt(num_workers=2, code=running_code())
    flags = dict.fromkeys(range(10), ("warmup",))
    changes = {
        "val_bpb": 1.5,
        "layer_max_vio": (0.1, 0.2),
        "gpu_throttle_bits": 4,
        "served_digest": "00ff",
        "bal": None,
    }
    rows = [row(step, trial=record.name, flags=flags.get(step, ()), **changes) for step in range(num_rows)]
    record.append_rows(attempt.number, rows[:5])
    record.append_rows(attempt.number, rows[5:])
    facts = dataclasses.asdict(start_facts(text_digest="aa", tokenizer_digest="bb", num_text_shards=1, text_tokens=9))
    record.update_attempt(
        dataclasses.replace(attempt, first_step=0, end="completed", ended_utc=utc_now(), facts=facts, run_s=4.0)
    )
    leg, _, block = record.name.rpartition("-b")
    record.write_result(
        TrialResult(
            trial=record.name,
            leg=leg,
            block=int(block),
            status="completed",
            last_step=num_rows - 1,
            num_attempts=1,
            peak_mib=900.0,
            total_time_min=0.1,
            min_val_bpb=1.5,
            ended_utc=utc_now(),
        )
    )


def _interrupt(experiment: Experiment, record: TrialRecord) -> None:
    """A first attempt that was cut off, and a second one that seems to run."""
    for number in range(2):
        attempt = record.start_attempt(num_workers=2)
        record.append_rows(number, [row(step, attempt=number, trial=record.name) for step in range(7 * number, 12)])
        place = RankPlace(
            rank=0,
            host="host",
            node_id="0" * 56,
            pid=os.getpid(),
            started=process_started(os.getpid()),
            landmarks=Landmarks.here("train.py", "train"),
        )
        file = f"{stacks_folder(record.name)}/a{number:03d}-r000.json"
        experiment.store.write(file, json.dumps(dataclasses.asdict(place)).encode())
        store_stacks(experiment.store, record.name, number, {0: "File x, line 1\n"})
        record.end_in_time(number)
        if number == 0:
            record.update_attempt(dataclasses.replace(attempt, end="interrupted", retry_utc=utc_now()))
    checkpoint = f"{record.folders.train}/a000/step_000010"
    for name, data in (("checkpoint.json", b"{}"), ("trainer.json", b"{}"), ("rank_0.pt", b"PK")):
        experiment.store.write(f"{checkpoint}/{name}", data)
    counted = b'{"latest_checkpoint_result": {"checkpoint_dir_name": "step_000010"}}'
    experiment.store.write(f"{record.folders.train}/a000/checkpoint_manager_snapshot.json", counted)
    descriptor = record.open_log()
    assert descriptor is not None
    with os.fdopen(descriptor, "w") as log:
        log.write("step 1 of 40\n" * 50)
