r"""The trainer under torchrun: flags in, log lines and checkpoints out. A thin shell over nanochat.train.

    torchrun --rdzv-backend=loopback --rdzv-endpoint=127.0.0.1 --nproc_per_node=8 \
        -m scripts.base_train -- --use-moe --depth 12 ...

Checkpoints are in CHECKPOINT_ROOT/base_checkpoints/MODEL_TAG/step_000070/. The first SIGTERM or SIGINT ends the run
after the current step, with a checkpoint, and exit code 143 or 130 of every rank. Why a rank failed, and which rank
the others wait for, is one sentence on stderr.
"""

import datetime
import gc
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from nanochat import sizes
from nanochat.checkpoints import folders as checkpoint_folders
from nanochat.checkpoints.format import CheckpointError
from nanochat.config import ConfigError, TrainConfig
from nanochat.data.cache import cache_folder
from nanochat.flags import RunOptions, help_text, in_flag_names, parse_flags
from nanochat.loop.compile_failures import CompileError
from nanochat.machine.device import keep_freed_memory
from nanochat.machine.memory import free_memory_bytes, is_out_of_memory, memory_advice, peak_mib
from nanochat.machine.stores import stay_on_this_machine
from nanochat.stats import Checkpoint, Hooks, TrainResult
from nanochat.train import DivergedError, train
from scripts.own_errors import end_by
from scripts.rank_watch import RankWatch

COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=15)  # longer than the rank watch takes, which names a rank
CHECKPOINTS_KEPT = 2
ECHO_S = 2.0


class OutOfMemoryError(RuntimeError):
    """Memory ran out; says what to lower."""


class _StopSignal:
    """Remembers the first SIGTERM or SIGINT; a later one has its usual effect.

    Ctrl-C reaches a rank twice, from the terminal and from torchrun: what follows within ECHO_S is the same request.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._received_s = 0.0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def is_received(self) -> bool:
        """True from the first signal on."""
        return self.received is not None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._received_s = number, time.monotonic()
        elif time.monotonic() - self._received_s > ECHO_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def checkpoint_folder(config: TrainConfig, options: RunOptions) -> Path:
    """Where this run's checkpoints lie; without a root in the cache folder, without a tag under d<depth>."""
    root = Path(options.checkpoint_root).expanduser() if options.checkpoint_root else cache_folder()
    return root / "base_checkpoints" / (options.model_tag or f"d{config.model.depth}")


def candidates(root: Path, options: RunOptions) -> Iterable[Path]:
    """The checkpoints that this start may continue from, newest first; none without a resume flag."""
    if options.resume is None:
        return []
    found = checkpoint_folders.newest_first(root)
    if options.resume == "latest":
        return found
    wanted = [folder for folder in found if checkpoint_folders.step_of(folder) == options.resume]
    if not wanted:
        raise ConfigError(
            f"--resume-from-step {options.resume}: there is no checkpoint {root / f'step_{options.resume:06d}'}; "
            f"found {', '.join(p.name for p in found) or 'none'}"
        )
    return wanted


def _start_process_group() -> None:
    if "RANK" not in os.environ:
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE"):
        stay_on_this_machine()
    dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _train(config: TrainConfig, hooks: Hooks) -> TrainResult:
    try:
        return train(config, hooks)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(in_flag_names(memory_advice(error, config, peak_mib()))) from error


def _run(config: TrainConfig, options: RunOptions, stop: _StopSignal) -> int:
    is_on_cpu = config.run.device == "cpu" or not torch.cuda.is_available()
    if is_on_cpu:
        keep_freed_memory()
    _start_process_group()
    if is_on_cpu:
        _check_cpu(config)
    folder = checkpoint_folder(config, options)
    continued = list(candidates(folder, options))
    if _is_first():
        print(f"Checkpoint dir: {folder}", flush=True)

    def save(checkpoint: Checkpoint) -> None:
        checkpoint_folders.save(folder, checkpoint, CHECKPOINTS_KEPT)

    with RankWatch.of_environment() as rank_watch:
        hooks = Hooks(
            save=save,
            checkpoints=lambda: continued,
            may_start_anew=False,  # not what --resume asks for, and the older checkpoints would soon be replaced
            should_stop=stop.is_received,
            step_done=rank_watch.step_done,
        )
        result = _train(config, hooks)
    if result.completed:
        return 0
    received = stop.received or signal.SIGTERM  # without one, another rank has received it
    if _is_first():
        name = signal.Signals(received).name
        print(f"Stopped after step {result.last_step} by {name}; add --resume latest to continue", flush=True)
    return 128 + received


def _check_cpu(config: TrainConfig) -> None:
    """Raises ConfigError for a run that this machine's CPU cannot carry; a launch rejects the same ones."""
    num_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    objection = sizes.cpu_objection(config, num_ranks, free_memory_bytes())
    if objection is not None:
        raise ConfigError(
            f"{objection}; train a smaller model or batch (--depth, --max-seq-len, --device-batch-size, "
            f"--total-batch-size) or with fewer ranks, or run it where there are GPUs"
        )


def main() -> int:
    """Runs the command line; returns the exit code. What is wrong is said in one sentence on stderr."""
    argv = sys.argv[1:]
    if {"--help", "-h"} & set(argv):
        if _is_first():
            print(help_text())
        return 0
    stop = _StopSignal()
    try:
        config, options = parse_flags(argv)
    except ConfigError as error:
        return end_by(str(error), 2, "the command line", stop.is_received)
    try:
        code = _run(config, options, stop)
    except Exception as error:
        return _end(error, stop)
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    return code


def _end(error: Exception, stop: _StopSignal) -> int:
    """The exit code after an error: one sentence for what can be foreseen, a call stack for what cannot."""
    if not isinstance(error, ConfigError | CheckpointError | CompileError | DivergedError | OutOfMemoryError):
        get_error_handler().record_exception(error)  # torchrun's summary then names the rank that failed first
        raise error
    whose = "this rank" if isinstance(error, CheckpointError | OutOfMemoryError) else "all ranks"
    return end_by(in_flag_names(str(error)), 2 if isinstance(error, ConfigError) else 1, whose, stop.is_received)


if __name__ == "__main__":
    exit_code = main()
    gc.disable()
    gc.freeze()  # at its end the interpreter would look for what can be freed in all of torch, for half a second
    sys.exit(exit_code)
