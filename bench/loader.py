"""Whether the loader keeps a GPU fed: tokens a second, and how long a device that takes 700,000 of them waits.

    python -m bench.loader [--ranks 8] [--tok-per-sec 700000] [--seconds 10] [--lanes-per-rank 4]

Each rank is a process with its own feed, in micro-batches of 16 rows of 1,024 tokens. The text is that of the
embedded corpus, its documents drawn again and again into row groups as large as those of web-scale corpora, so that
each lane fills a whole packing buffer and tokenizes many documents at a time. The device is a clock: a micro-step takes
as long as its tokens at the given rate, the host runs ahead of it until the optimizer step ends, and holds the
interpreter's lock for a while at each launch, as a training thread does. With a GPU the batches really go there.

Three lines: what the thread packs if no step waits; the clock fed by the thread; and the control, the same clock with
packing done by the training thread itself while the device works, and with the same way to a GPU. `idle` is the share
of time in which the device waited for a batch, `longest wait` the worst single one.
"""

import argparse
import json
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat.data import tokenizer
from nanochat.data.corpus import Corpus, prepare_embedded
from nanochat.data.feed import Feed, Upload
from nanochat.data.lanes import Lanes
from nanochat.data.shards import RowGroups, write_shard

BATCH_SIZE, SEQ_LEN = 16, 1024
MICRO_BATCH_TOKENS = BATCH_SIZE * SEQ_LEN
LAUNCH_MS = 1.0  # the training thread's own work for one micro-step
DOCUMENTS_PER_GROUP = 1200


@dataclass(frozen=True)
class Figures:
    """What one rank measured in one mode."""

    tok_per_sec: float
    idle_pct: float
    longest_wait_ms: float
    host_cpu_pct: float  # of one core, all threads of the process


class InLine:
    """The control: the training thread packs the next batch right after it has launched a micro-step."""

    def __init__(self, lanes: Lanes, device: torch.device) -> None:
        self._lanes, self._turn = lanes, 0
        self._upload = Upload(device) if device.type == "cuda" else None
        self._ahead: Tensor | None = None

    def prefetch(self) -> None:
        """Packs the next batch and sends it on its way to the device, unless that is done."""
        if self._ahead is None:
            packed = self._lanes.next_batch(self._lanes.my_lanes[self._turn])
            self._ahead = packed if self._upload is None else self._upload(packed)
            self._turn = (self._turn + 1) % len(self._lanes.my_lanes)

    def next(self) -> Tensor:
        """The next batch (2, B, T) on the device."""
        self.prefetch()
        batch, self._ahead = self._ahead, None
        assert batch is not None
        return batch


def run_clock(feed: Feed | InLine, num_micro_steps: int, seconds: float, tok_per_sec: float) -> Figures:
    """Takes batches as a device of `tok_per_sec` does; 0: as fast as they come. The first step is not counted."""
    micro_step_s = MICRO_BATCH_TOKENS / tok_per_sec if tok_per_sec else 0.0
    _optimizer_step(feed, num_micro_steps, micro_step_s)
    waits_s: list[float] = []
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    while time.perf_counter() - started_s < seconds:
        waits_s += _optimizer_step(feed, num_micro_steps, micro_step_s)
    wall_s = time.perf_counter() - started_s
    return Figures(
        tok_per_sec=len(waits_s) * MICRO_BATCH_TOKENS / wall_s,
        idle_pct=100 * sum(waits_s) / wall_s,
        longest_wait_ms=1e3 * max(waits_s),
        host_cpu_pct=100 * (time.process_time() - started_cpu_s) / wall_s,
    )


def _optimizer_step(feed: Feed | InLine, num_micro_steps: int, micro_step_s: float) -> list[float]:
    """How long the device waited for each batch. It is idle when a step begins, as in training."""
    waits_s: list[float] = []
    device_free_s = time.perf_counter()
    for _ in range(num_micro_steps):
        feed.next()
        now_s = time.perf_counter()
        waits_s.append(max(0.0, now_s - device_free_s))
        device_free_s = max(now_s, device_free_s) + micro_step_s
        if micro_step_s:
            _hold_lock(LAUNCH_MS)
        feed.prefetch()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    time.sleep(max(0.0, device_free_s - time.perf_counter()))
    return waits_s


def _hold_lock(duration_ms: float) -> None:
    end_s = time.perf_counter() + duration_ms / 1e3
    while time.perf_counter() < end_s:
        pass


def large_corpus(folder: Path, num_groups: int) -> Corpus:
    """Shards in `folder` with the embedded corpus's documents, its tokenizer and its validation shard."""
    embedded, draw = prepare_embedded(), random.Random(0)
    groups, texts, number = RowGroups(embedded.train_shards), list[str](), 0
    while (group := groups.get(number)) is not None:
        texts += groups.read(group)
        number += 1
    shard = folder / "shard_00000.parquet"
    write_shard(shard, [draw.choices(texts, k=DOCUMENTS_PER_GROUP) for _ in range(num_groups)])
    return replace(embedded, name="large", train_shards=(shard,))


def _rank(rank: int, args: argparse.Namespace, corpus: Corpus, start: Any, results: Any) -> None:
    torch.set_num_threads(1)
    device = (
        torch.device("cuda", rank % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
    )
    if device.type == "cuda":
        torch.cuda.set_device(device)

    def lanes() -> Lanes:
        return Lanes(
            corpus,
            tokenizer.load(corpus),
            split="train",
            num_lanes=args.lanes_per_rank * args.ranks,
            rank=rank,
            world_size=args.ranks,
            batch_size=BATCH_SIZE,
            seq_len=SEQ_LEN,
        )

    modes: dict[str, tuple[Callable[[], Feed | InLine], float]] = {
        "thread, no step waits": (lambda: Feed(lanes(), device), 0.0),
        "thread": (lambda: Feed(lanes(), device), args.tok_per_sec),
        "control: in line": (lambda: InLine(lanes(), device), args.tok_per_sec),
    }
    for mode, (make, tok_per_sec) in modes.items():
        feed = make()
        start.wait()
        results.put((mode, asdict(run_clock(feed, args.lanes_per_rank, args.seconds, tok_per_sec))))
        if isinstance(feed, Feed):
            feed.close()


def _measure(args: argparse.Namespace, corpus: Corpus) -> dict[str, list[dict[str, float]]]:
    """All ranks' figures by mode."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(args.ranks), context.Queue()
    ranks = [context.Process(target=_rank, args=(rank, args, corpus, start, results)) for rank in range(args.ranks)]
    for process in ranks:
        process.start()
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(3 * args.ranks):
        mode, figures = results.get(timeout=600)
        found.setdefault(mode, []).append(figures)
    for process in ranks:
        process.join()
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Prints one line per mode, and one JSON line with all ranks' figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--lanes-per-rank", type=int, default=4, help="micro-batches per optimizer step and rank")
    parser.add_argument("--tok-per-sec", type=float, default=700_000, help="of the device")
    parser.add_argument("--seconds", type=float, default=10.0, help="per mode")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        found = _measure(args, large_corpus(Path(folder), args.lanes_per_rank * args.ranks))
    place = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"{args.ranks} ranks on {os.cpu_count()} cores | {place} | a device of {args.tok_per_sec:,.0f} tok/s")
    for mode, figures in found.items():
        rates = [f["tok_per_sec"] for f in figures]
        print(
            f"{mode:<22} {min(rates):>10,.0f} tok/s on the slowest rank (median {statistics.median(rates):,.0f}, "
            f"all {sum(rates):,.0f})  idle {max(f['idle_pct'] for f in figures):5.2f} %  "
            f"longest wait {max(f['longest_wait_ms'] for f in figures):6.1f} ms  "
            f"host {statistics.median([f['host_cpu_pct'] for f in figures]):4.0f} % of a core"
        )
    print(json.dumps({"ranks": args.ranks, "tok_per_sec": args.tok_per_sec, "modes": found}), file=sys.stderr)


if __name__ == "__main__":
    main()
