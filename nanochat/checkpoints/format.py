"""A checkpoint: the state of training at one moment, on storage complete and proven, or rejected by name.

In a folder: the sharded values and moments (`__{rank}_0.distcp` and `.metadata`, by torch.distributed.checkpoint, which
also cuts them again for another number of ranks), `rank_{r}.pt` (the rank's data lanes and random states),
`trainer.json` (the loop's own numbers) and, written last, `checkpoint.json` with the size and sha256 of every other
file. A folder is a checkpoint if that index exists and all files match it. What is read runs no code (untrusted.py).

Each rank writes into the folder that it is given, shared or its own; where they are its own, the caller that merges
them (Ray Train uploads them into one place) gets the same complete folder.
"""

import hashlib
import io
import json
import os
import re
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load as load_sharded
from torch.distributed.checkpoint.state_dict_saver import save as save_sharded
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from nanochat.checkpoints.random_states import random_states, restore_random_states
from nanochat.checkpoints.untrusted import (
    TensorReader,
    UntrustedError,
    load_rank_state,
    open_plain,
    plain_bytes,
    with_tensors,
)
from nanochat.files import write_whole
from nanochat.machine.ranks import Ranks
from nanochat.optimizer.sharded import ShardedOptimizer
from nanochat.stats import CHECKPOINT_INDEX

INDEX = CHECKPOINT_INDEX
_FORMAT = 1
_TRAINER, _METADATA = "trainer.json", ".metadata"
_SHARDS = re.compile(r"__(\d{1,6})_\d{1,6}\.distcp")
_MOST_STEPS, _MOST_RANKS = 2**31, 2**16

T = TypeVar("T")


class CheckpointError(Exception):
    """A checkpoint that cannot be written, or must not be used: names the file and what was seen."""


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """One rank's share of a run at one moment: what a checkpoint stores of it and gives back.

    It is the `nanochat.stats.Checkpoint` that hooks receive. Tensors, lanes and trainer numbers are the live ones until
    `copied`. Tensors and trainer numbers are equal on all ranks, or shards; they are stored once.
    """

    step: int  # optimizer steps done
    config_digest: str
    tensors: Mapping[str, Tensor]  # weights, moments and buffers, by the names they are stored under
    lanes: Mapping[int, Any]  # this rank's own; of all ranks where it was read
    trainer: Mapping[str, Any]  # the loop's own numbers: whatever JSON can hold
    random_states: Mapping[str, Any]
    ranks: Ranks  # whose collectives write it

    @classmethod
    def of(
        cls,
        optimizer: ShardedOptimizer,
        buffers: Mapping[str, Tensor] | None = None,
        *,
        step: int,
        config_digest: str,
        lanes: Mapping[int, Any],
        trainer: Mapping[str, Any],
    ) -> "TrainState":
        """The state of now. `buffers` are the model's tensors that are not parameters."""
        return cls(
            step=step,
            config_digest=config_digest,
            tensors={**optimizer.state_dict(), **_buffer_entries(buffers)},
            lanes=lanes,
            trainer=trainer,
            random_states=random_states(optimizer.ranks.device),
            ranks=optimizer.ranks,
        )

    def copied(self, copy: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]) -> "TrainState":
        """The same moment by value: it stays as it is while training continues. `copy` copies the tensors."""
        lanes, trainer = deepcopy(self.lanes), deepcopy(self.trainer)
        return replace(self, tensors=copy(self.tensors), lanes=lanes, trainer=trainer)

    def write(self, folder: Path) -> None:
        """Collective, on any one thread. All is on the disk before the index is.

        Raises CheckpointError on every rank if it fails on one; the folder is then no checkpoint.
        """
        self.together(lambda: _claim(folder))
        alone = self.ranks.world_size == 1
        try:
            writer = _Writer(folder, per_thread_copy_ahead=0)  # copying ahead would wait for a GPU's queue
            save_sharded(dict(self.tensors), storage_writer=writer, process_group=self.ranks.group, no_dist=alone)
        except (CheckpointException, OSError, RuntimeError) as error:
            raise CheckpointError(_refusal(folder, error)) from error
        facts = self.together(lambda: _write_rank_files(folder, self))
        self.together(lambda: _write_index(folder, self, facts), first_only=True)

    def together(self, action: Callable[[], T], *, first_only: bool = False) -> list[T | None]:
        """Collective. Runs `action` on every rank, or on rank 0 alone; returns what each rank's returned.

        Raises CheckpointError on all ranks if it failed on one.
        """
        result, failure = None, None
        try:
            result = action() if self.ranks.is_first or not first_only else None
        except (CheckpointError, OSError, RuntimeError) as error:
            failure = f"rank {self.ranks.rank}: {error}"
        gathered = self.ranks.all_gather_object((result, failure))
        failures = [failure for _, failure in gathered if failure]
        if failures:
            raise CheckpointError("cannot write the checkpoint; " + "; ".join(failures))
        return [result for result, _ in gathered]


def verify(folder: Path) -> None:
    """Raises CheckpointError unless the folder holds a complete checkpoint, every byte as it was written."""
    files: dict[str, Any] = read_index(folder)["files"]
    for name, fact in files.items():
        path = folder / name
        if not path.exists():
            raise CheckpointError(f"{path} is missing, though {INDEX} lists it with {fact['bytes']} bytes")
        num_bytes = path.lstat().st_size
        if num_bytes < fact["bytes"]:
            raise CheckpointError(f"{path} is truncated: {num_bytes} of {fact['bytes']} bytes")
        if num_bytes > fact["bytes"]:
            raise CheckpointError(f"{path} has {num_bytes} bytes, {fact['bytes']} were written")
    with ThreadPoolExecutor() as pool:
        digests = pool.map(lambda name: _sha256(folder / name), files)
        for (name, fact), seen in zip(files.items(), digests, strict=True):
            if seen != fact["sha256"]:
                raise CheckpointError(f"{folder / name} is damaged: its sha256 is {seen}, {fact['sha256']} was written")


def read_index(folder: Path) -> dict[str, Any]:
    """The checkpoint's index, all of it checked. Raises CheckpointError if there is none or it is not an index."""
    path = folder / INDEX
    if folder.is_symlink():
        raise CheckpointError(f"{folder} is a link, which no checkpoint is")
    if not path.is_file():
        raise CheckpointError(f"{folder} is no complete checkpoint: it has no {INDEX}, which is written last")
    try:
        index: Any = json.loads(plain_bytes(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON ({path.stat().st_size} bytes): {error}") from error
    except UntrustedError as error:
        raise CheckpointError(str(error)) from None
    wanted = {"format", "step", "world_size", "config_digest", "files"}
    if not isinstance(index, dict) or not wanted <= index.keys():
        raise CheckpointError(f"{path} is no checkpoint index: it lacks some of {', '.join(sorted(wanted))}")
    if index["format"] != _FORMAT:
        raise CheckpointError(f"{path} has format {index['format']!r}; this version reads format {_FORMAT}")
    reason = _what_is_wrong(index)
    if reason is not None:
        raise CheckpointError(f"{path} is damaged: {reason}")
    return index


def _what_is_wrong(index: Mapping[str, Any]) -> str | None:
    """Why the fields of an index cannot be those of a checkpoint: it lists every file of every rank, and no other."""
    for name, most in (("step", _MOST_STEPS), ("world_size", _MOST_RANKS)):
        if type(index[name]) is not int or not 0 <= index[name] <= most:
            return f"{name} is {str(index[name])[:40]!r}"
    if not isinstance(index["config_digest"], str):
        return "config_digest is no text"
    files = index["files"]
    if not isinstance(files, dict):
        return "it lists no files"
    ranks = range(index["world_size"])
    needed = {_METADATA, _TRAINER, *(f"rank_{rank}.pt" for rank in ranks)}
    if not needed <= files.keys():
        return f"it does not list {min(needed - files.keys())}"
    for name, fact in files.items():
        shard = _SHARDS.fullmatch(name)
        if name not in needed and not (shard and int(shard[1]) in ranks):
            return f"it lists {name!r}, which is no file of a checkpoint of {len(ranks)} ranks"
        if not isinstance(fact, dict) or type(fact.get("bytes")) is not int or not isinstance(fact.get("sha256"), str):
            return f"it does not say size and digest of {name}"
    return None


def read(folder: Path, ranks: Ranks, into: ShardedOptimizer, buffers: Mapping[str, Tensor] | None = None) -> TrainState:
    """Collective. Loads optimizer, parameters, buffers and random states in place, whatever number of ranks wrote them.

    The folder is taken to be verified (`latest_valid`), which says nothing about who wrote it. Random states are the
    same rank's, where it existed before; the lanes are those of all ranks. Raises CheckpointError for another state.
    """
    silence_notice()
    index = read_index(folder)
    tensors = into.state_dict()
    everything = {**tensors, **_buffer_entries(buffers)}
    reader = TensorReader(folder, index["files"].keys())
    try:
        reader.read_metadata()  # torch would report its errors twice, as tracebacks in the log
        load_sharded(everything, storage_reader=reader, no_dist=ranks.world_size == 1)
    except (CheckpointException, OSError, RuntimeError, ValueError, UntrustedError) as error:
        raise CheckpointError(f"the state in {folder} does not fit this model: {error}") from error
    into.load_state_dict(tensors)
    old_ranks = range(index["world_size"])
    try:
        stored = [load_rank_state(folder / f"rank_{old_rank}.pt") for old_rank in old_ranks]
        trainer = json.loads(plain_bytes(folder / _TRAINER))
        of_rank = stored[ranks.rank % len(old_ranks)][1]
        restore_random_states(of_rank, ranks.device)
    except (UntrustedError, OSError) as error:
        raise CheckpointError(str(error)) from error
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise CheckpointError(f"{folder} holds no state of a rank: {type(error).__name__}: {error}") from error
    if not isinstance(trainer, dict):
        raise CheckpointError(f"{folder / _TRAINER} holds no JSON object")
    lanes = {lane: state for lanes_of_rank, _ in stored for lane, state in lanes_of_rank.items()}
    return TrainState(
        step=index["step"],
        config_digest=index["config_digest"],
        tensors=everything,
        lanes=dict(sorted(lanes.items())),
        trainer=trainer,
        random_states=of_rank,
        ranks=ranks,
    )


def latest_valid(candidates: Iterable[Path], ranks: Ranks) -> tuple[Path | None, list[str]]:
    """Collective. The first candidate that verifies, and one sentence about each that did not.

    Rank 0 decides; the others take their own candidate of the same place, as paths can differ between machines.
    """
    place, folder, remarks = _first_valid(candidates) if ranks.is_first else (None, None, [])
    place, remarks = ranks.broadcast_object((place, remarks))
    if place is not None and not ranks.is_first:
        folder = next(islice(candidates, place, None), None)
        if folder is None:
            raise CheckpointError(f"rank 0 continues from its candidate {place}; rank {ranks.rank} has not as many")
    return folder, remarks


def _first_valid(candidates: Iterable[Path]) -> tuple[int | None, Path | None, list[str]]:
    remarks: list[str] = []
    for place, folder in enumerate(candidates):
        try:
            verify(folder)
        except (CheckpointError, OSError) as error:
            remarks.append(f"checkpoint not used: {error}")
        else:
            return place, folder, remarks
    return None, None, remarks


def silence_notice() -> None:
    """Silences torch's remark that one process is a world of one; by the training thread, for all threads and for good.

    Filters belong to the process: a writer thread that set and unset them would undo what others do meanwhile.
    """
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")


class _Writer(FileSystemWriter):
    """Tells what the file system said: torch hides a full disk behind what its archive says of the cut file."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            raise _told_by_the_system(error) from error


def _told_by_the_system(error: BaseException) -> BaseException:
    """The first error of the file system that this one came of; itself, if there is none."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error


def _refusal(folder: Path, error: BaseException) -> str:
    """The sentence of a write that failed. torch wraps the ranks' own exceptions, with their tracebacks."""
    failures = error.failures if isinstance(error, CheckpointException) else {}
    causes = [f"rank {rank}: {cause}" for rank, (cause, _) in failures.items()] or [str(error)]
    return (
        f"cannot write model and optimizer state into {folder}; {'; '.join(causes)}; earlier checkpoints are untouched"
    )


def _claim(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / INDEX).exists():
        raise CheckpointError(f"{folder} already holds a checkpoint; write into a new folder")


def _write_rank_files(folder: Path, state: TrainState) -> dict[str, dict[str, Any]]:
    """Writes what is this rank's alone; size and digest of all files it wrote, the sharded ones included."""
    packed = io.BytesIO()
    torch.save({"lanes": with_tensors(dict(state.lanes)), "random": dict(state.random_states)}, packed)
    rank_file = folder / f"rank_{state.ranks.rank}.pt"
    write_whole(rank_file, packed.getvalue())
    mine = [rank_file, *folder.glob(f"__{state.ranks.rank}_*.distcp")]
    if state.ranks.is_first:
        write_whole(folder / _TRAINER, json.dumps(dict(state.trainer), indent=1).encode())
        mine += [folder / _TRAINER, folder / _METADATA]
    return {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in mine}


def _write_index(folder: Path, state: TrainState, facts: Iterable[dict[str, Any] | None]) -> None:
    index = {
        "format": _FORMAT,
        "step": state.step,
        "world_size": state.ranks.world_size,
        "config_digest": state.config_digest,
        "written_unix_s": time.time(),  # for people; nothing is ordered by it
        "files": {name: fact for of_rank in facts if of_rank for name, fact in sorted(of_rank.items())},
    }
    write_whole(folder / INDEX, json.dumps(index, indent=1).encode())


def _sha256(path: Path) -> str:
    try:
        with os.fdopen(open_plain(path), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except UntrustedError as error:
        raise CheckpointError(str(error)) from None


def _buffer_entries(buffers: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    return {f"buffer.{name}": tensor for name, tensor in (buffers or {}).items()}
