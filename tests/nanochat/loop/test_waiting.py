"""Who waits for whom is read from real stacks, alike from this interpreter and from faulthandler's text."""

import contextlib
import faulthandler
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.utils import _DistWrapper  # pyright: ignore[reportPrivateUsage]

from nanochat.checkpoints.format import TrainState
from nanochat.checkpoints.saving import Saver
from nanochat.config import RunConfig
from nanochat.loop import waiting
from nanochat.loop.waiting import Answer, Landmarks, Stack, answer, answer_of_text, frames_of, who_holds_up
from nanochat.machine.device import open_device
from nanochat.machine.ranks import Ranks
from nanochat.metering.meter import Meter
from nanochat.optimizer.groups import ParamSpec
from nanochat.optimizer.sharded import ShardedOptimizer
from nanochat.stats import Hooks

NAMES = ("rank 0 (a, process 10)", "rank 1 (b, process 11)", "rank 2 (b, process 12)")
WAITS, PACKS = Answer(waits=True, place="wait (dist.py:9)"), Answer(waits=False, place="pack (dataloader.py:7)")
ENTRY = "below_here"
HERE = Landmarks.here(__file__, ENTRY)


@dataclass
class Seen:
    """One moment of a thread that is inside a function, in both forms."""

    stack: Stack
    text: str

    def judged(self) -> Answer:
        """What both forms say, which must be the same."""
        told = answer(self.stack, [], HERE)
        assert answer_of_text(waiting.with_sources(self.text), HERE) == told
        return told


class Watch(list[Seen]):
    """Every call of functions that are put in their place."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self._patch, self._file = patch, folder / "stacks.txt"

    def on(self, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def watched(*args: Any, **settings: Any) -> Any:
            self.append(self._look())
            return real(*args, **settings)

        self._patch.setattr(owner, name, watched)

    def _look(self) -> Seen:
        """Without the frames of this class, as if the watched function were of C."""
        with self._file.open("w+") as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            text = file.read()
        lines = [line for line in text.splitlines() if " in _look" not in line and " in watched" not in line]
        return Seen(frames_of(traceback.extract_stack()[:-2]), "\n".join(lines))


def below_here(action: Callable[[], Any]) -> Any:
    """What the thread that trains is recognised by in a text."""
    return action()


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Watch:
    return Watch(monkeypatch, tmp_path)


def test_a_collective_is_a_wait(watch: Watch):
    watch.on(dist.distributed_c10d, "all_gather")
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        together = _DistWrapper(group=None, use_dist=True, coordinator_rank=0)
        assert below_here(lambda: together.all_reduce("add", lambda: 1, sum)) == 1  # a checkpoint's
        below_here(lambda: dist.barrier())
    finally:
        dist.destroy_process_group()
    assert watch
    assert all(seen.judged().waits and waiting.in_collective(seen.stack, HERE) for seen in watch)


def test_a_wait_for_a_collective_that_runs_already_is_one_wherever_it_is_called(watch: Watch):
    class Handle:
        def wait(self) -> None: ...

    watch.on(Handle, "wait")
    below_here(lambda: Handle().wait())
    assert watch[0].judged().waits


def test_the_meters_reading_waits_for_the_gpu_but_is_no_collective(monkeypatch: pytest.MonkeyPatch, watch: Watch):
    meter = Meter(open_device(RunConfig(device="cpu"), uses_fp8=False), num_layers=1, num_stats=1)
    meter.start()
    watch.on(torch.Tensor, "tolist")
    active = torch.ones(())
    below_here(lambda: meter.stop(active, num_micro_steps=1, checkpoint_ms=0.0))
    (seen,) = watch
    assert seen.stack[-1].file == sys.modules[Meter.__module__].__file__
    assert seen.judged().waits
    assert not waiting.in_collective(seen.stack, HERE)


def test_synchronising_a_gpu_is_a_wait_for_the_others(watch: Watch):
    watch.on(torch.cuda, "_lazy_init")
    with contextlib.suppress(AssertionError, RuntimeError):  # without a GPU; the frame is what counts
        below_here(torch.cuda.synchronize)
    assert watch[0].judged().waits


def test_storage_of_a_checkpoint_is_work_however_slow_it_is(tmp_path: Path, watch: Watch):
    watch.on(os, "fsync")
    below_here(lambda: save({"x": torch.ones(2)}, storage_writer=FileSystemWriter(tmp_path), no_dist=True))
    num_written = len(watch)
    watch.on(torch, "load")
    below_here(lambda: load({"x": torch.zeros(2)}, storage_reader=FileSystemReader(tmp_path), no_dist=True))
    assert 0 < num_written < len(watch)
    assert all("/torch/distributed/checkpoint/" in seen.stack[-1].file for seen in watch)
    assert not any(seen.judged().waits for seen in watch)


def test_work_is_no_wait(watch: Watch):
    model = nn.Linear(2, 2)
    watch.on(nn.functional, "linear")
    below_here(lambda: model(torch.ones(1, 2)))
    assert not watch[0].judged().waits
    assert not answer([], [], HERE).waits


def test_a_thread_pool_of_this_rank_is_no_wait_for_others():
    taken = list[Stack]()
    main = threading.get_ident()

    def look() -> None:
        time.sleep(0.3)
        frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage] - its name in the documentation
        taken.append(frames_of(traceback.extract_stack(frames[main])))

    with ThreadPoolExecutor(1) as pool:
        pool.submit(look).result()
    assert any(".wait(" in frame.source for frame in taken[0][-2:])
    assert not answer(taken[0], [], HERE).waits
    assert not waiting.waits_for_writer(taken[0], HERE)


@pytest.mark.parametrize("in_collective", [False, True])
def test_where_training_waits_for_its_checkpoint_the_thread_that_writes_it_decides(tmp_path: Path, in_collective: bool):
    weights, disk, others = nn.Parameter(torch.ones(3, 3)), threading.Event(), torch.futures.Future()
    alone = Ranks.from_environment(torch.device("cpu"))
    spec = ParamSpec(name="weights", param=weights, kind="muon", lr=0.1)
    optimizer = ShardedOptimizer([spec], alone, compute_dtype=torch.float32)
    state = TrainState.of(optimizer, step=1, config_digest="", lanes={}, trainer={})
    texts = list[str]()

    def write(_: object) -> None:
        if in_collective:
            others.wait()
        else:
            disk.wait()

    def look() -> None:
        time.sleep(0.5)
        with (tmp_path / "stacks").open("w+") as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            texts.append(waiting.with_sources(file.read()))
        disk.set()
        others.set_result(None)

    with Saver(Hooks(save=write), lambda: state, alone, beside_training=True) as saver:
        saver.save(last=False)
        other = threading.Thread(target=look)
        other.start()
        below_here(saver.settle)
        other.join()
    told = answer_of_text(texts[0], HERE)
    assert told is not None
    assert told.waits == in_collective
    assert in_collective or told.place.startswith("write (test_waiting.py:")
    hidden = answer_of_text("\n\n".join(part for part in texts[0].split("\n\n") if ENTRY in part), HERE)
    assert hidden is not None
    assert hidden.waits, "a writer that is not seen is not blamed"


def test_a_text_says_whose_thread_trains_or_that_none_does():
    assert answer_of_text("process 12 did not answer within 20 s; its state is T (stopped)", HERE) is None
    elsewhere = answer_of_text('Thread 0x1 (most recent call first):\n  File "/x/main.py", line 3 in go\n', HERE)
    assert elsewhere == Answer(waits=False, place="code in which no thread is seen to train")


def test_what_called_the_training_says_nothing_about_it():
    called = f'Thread 0x1 (most recent call first):\n  File "{HERE.entry}", line 2 in {ENTRY}\n'
    called += f'  File "{HERE.collectives[0]}caller.py", line 1 in call\n'
    told = answer_of_text(called, HERE)
    assert told is not None
    assert not told.waits


def test_files_mean_something_on_the_ranks_own_machine_only():
    here = Seen([], f'Thread 0x1 (most recent call first):\n  File "{HERE.saver}", line 1 in f\n')
    text = here.text + f'  File "{HERE.entry}", line 2 in {ENTRY}\n'
    moved = text.replace(str(Path(HERE.saver).parent), "/elsewhere/nanochat")
    there = replace(HERE, collectives=("/elsewhere/nanochat/",))
    on_it, off_it = answer_of_text(moved, there), answer_of_text(moved, HERE)
    assert (on_it and on_it.waits, off_it and off_it.waits) == (True, False)


def test_landmarks_name_files_that_are_there_and_survive_their_json():
    import json
    from dataclasses import asdict

    assert all(Path(path).exists() for path in (*HERE.collectives, *HERE.own_work, *HERE.gpu, *HERE.threads))
    assert all(Path(path).is_file() for path in (HERE.saver, HERE.entry))
    assert Landmarks.stored(json.loads(json.dumps(asdict(HERE)))) == HERE


def test_judging_needs_no_torch():
    program = "import sys, nanochat.loop.waiting as w; w.Landmarks.here('x', 'f'); print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_the_place_is_the_innermost_function_that_is_not_pythons_own_waiting():
    def waits_long() -> None:
        Future[int]().result(timeout=0.01)

    with pytest.raises(TimeoutError) as error:
        waits_long()
    assert waiting.place_of(frames_of(traceback.extract_tb(error.tb)), HERE).startswith("waits_long (test_waiting.py:")
    assert waiting.place_of([], HERE) == "no code of Python"


def test_a_rank_that_does_not_answer_is_named():
    assert who_holds_up(NAMES, {0: WAITS, 2: WAITS}, answer_s=10) == (
        "rank 1 (b, process 11) did not answer within 10 s: killed, stopped, or stuck in code that is not Python"
    )
    both = who_holds_up(NAMES, {0: WAITS}, answer_s=10) or ""
    assert both.startswith("rank 1 (b, process 11) and rank 2 (b, process 12) did not answer within 10 s")


def test_a_rank_that_answers_but_does_not_wait_is_named_with_its_place():
    told = who_holds_up(NAMES, {0: WAITS, 1: WAITS, 2: PACKS}, answer_s=10)
    assert told == "rank 2 (b, process 12) is in pack (dataloader.py:7), and the others wait for that"
    assert who_holds_up(NAMES[:1], {0: PACKS}, answer_s=10) == "rank 0 (a, process 10) is in pack (dataloader.py:7)"


def test_silence_says_more_than_work():
    assert "rank 2" not in (who_holds_up(NAMES, {0: WAITS, 2: PACKS}, answer_s=10) or "")


@pytest.mark.parametrize("given", [WAITS, PACKS])
def test_no_rank_is_named_where_all_are_alike(given: Answer):
    assert who_holds_up(NAMES, dict.fromkeys(range(3), given), answer_s=10) is None
