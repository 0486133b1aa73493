"""Mutation after mutation of a run's checkpoints, each resumed from as the trainer does.

Whoever can write a checkpoint can also make its index fit, so most changes come with the size and digest that do. A
change is either rejected with the trainer's own error, or the run continues: from that checkpoint, or the older one.
"""

import contextlib
import hashlib
import io
import json
import os
import pickle
import random
import warnings
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import nn

from nanochat.checkpoints import folders
from nanochat.checkpoints.format import INDEX, CheckpointError, TrainState, silence_notice, verify
from nanochat.config import ConfigError
from nanochat.data.corpus import Corpus
from nanochat.data.feed import Feed
from nanochat.data.lanes import Lanes
from nanochat.data.shards import write_shard
from nanochat.data.tokenizer import Tokenizer
from nanochat.loop import setup
from nanochat.machine.ranks import Ranks
from nanochat.optimizer.groups import ParamSpec
from nanochat.optimizer.sharded import ShardedOptimizer
from nanochat.recipes import d12_moe, shrink_to_tiny
from nanochat.stats import Hooks
from tests.fuzz.files import change_a_file, change_a_folder
from tests.fuzz.guard import Guard
from tests.fuzz.limits import TooSlow, place_of, time_limit
from tests.fuzz.mutations import Raw, changed_bytes, changed_field, palette, written
from tests.fuzz.sandbox import VICTIM, Sandbox

CONFIG = shrink_to_tiny(d12_moe(num_steps=40))
ALONE = Ranks.from_environment(torch.device("cpu"))
NUM_LANES = 2


class CheckpointCampaign:
    """A sandbox below `root`, and a run that resumes from it."""

    def __init__(self, root: Path) -> None:
        warnings.simplefilter("ignore")
        silence_notice()
        self._corpus, self._tokenizer = _text(root / "text")
        self._write(root / "storage" / VICTIM)
        self._sandbox = Sandbox(root)
        self._guard = Guard((root / "storage",), self._sandbox.outside)
        self._canary = os.getppid()
        self._values = palette(str(self._sandbox.outside), (1, self._canary, os.getpid()))
        self._plain = [value for value in self._values if not isinstance(value, Raw)] + _tensors()
        problems = self._read(True)
        if problems:
            raise ValueError(f"the sound checkpoint cannot be read: {problems}")

    def mutate(self, seed: int, number: int) -> tuple[str, list[str]]:
        """Changes one thing, resumes, puts it back. What was changed, and what was wrong."""
        rng = random.Random(f"{seed}/{number}")
        what = self._change(rng)
        self._guard.seen()
        self._guard.on = True
        try:
            problems = self._read(rng.random() < 0.5)
        finally:
            self._guard.on = False
        problems += self._guard.seen()
        os.kill(self._canary, 0)
        self._sandbox.restore()
        return what, problems

    def _write(self, root: Path) -> None:
        optimizer, lanes = _optimizer(), self._lanes()
        for step in (1, 2):
            lanes.next_batch(0)
            state = TrainState.of(
                optimizer,
                {"bias": torch.zeros(3)},
                step=step,
                config_digest=setup.state_digest(CONFIG),
                lanes=lanes.state(lanes.positions()),
                trainer=vars(setup.Progress(steps_done=step)),
            )
            folders.save(root, state, keep=2)

    def _lanes(self) -> Lanes:
        where = {"rank": 0, "world_size": 1, "batch_size": 1, "seq_len": 32, "num_lanes": NUM_LANES}
        return Lanes(self._corpus, self._tokenizer, split="train", **where)

    def _read(self, may_start_anew: bool) -> list[str]:
        """Resumes and takes a batch; what was not the trainer's own error."""
        root = self._sandbox.victim
        hooks = Hooks(checkpoints=lambda: folders.newest_first(root), may_start_anew=may_start_anew)
        feed = Feed(self._lanes(), torch.device("cpu"))
        buffers = {"bias": torch.zeros(3)}
        run: Any = SimpleNamespace(
            config=CONFIG,
            ranks=ALONE,
            optimizer=_optimizer(),
            model=SimpleNamespace(router_biases=lambda: buffers),
            feed=feed,
            progress=setup.Progress(),
        )
        try:
            with time_limit(), contextlib.redirect_stdout(io.StringIO()):
                for folder in folders.newest_first(root):
                    with contextlib.suppress(CheckpointError, OSError):
                        verify(folder)
                setup._continue_from_checkpoint(run, hooks)  # pyright: ignore[reportPrivateUsage]
                for _ in range(NUM_LANES):
                    feed.next()
                pickle.dumps(feed.state())
        except (CheckpointError, ConfigError):
            pass
        except TooSlow:
            return ["resuming took too long"]
        except Exception as error:
            return [f"{type(error).__name__}: {str(error)[:300]} {place_of(error)}"]
        finally:
            feed.close()
        return []

    def _change(self, rng: random.Random) -> str:
        name = rng.choice(self._sandbox.files())
        acts: list[Callable[[str, random.Random], str]] = [self._content, self._bytes, self._file, self._folder]
        how = rng.choices(acts, weights=[70, 16, 8, 6])[0](name, rng)
        if rng.random() < 0.8:
            how += f", {self._sign(name)}"
        return f"{name}: {how}"

    def _content(self, name: str, rng: random.Random) -> str:
        data = self._sandbox.original(name)
        if name.endswith(".json"):
            value, what = changed_field(json.loads(data), self._values, rng)
            data = written(value).encode("utf-8", "surrogatepass")
        elif name.endswith(".pt"):
            state = torch.load(io.BytesIO(data), weights_only=True)
            value, what = changed_field(state, self._plain, rng)
            data = _packed(value)
        elif name.endswith(".metadata"):
            value, what = _changed_object(pickle.loads(data), self._plain, rng)
            with contextlib.suppress(RuntimeError):  # torch writes only some kinds of memory
                data = pickle.dumps(value)
        else:
            data, what = changed_bytes(data, [data], rng)
        (self._sandbox.victim / name).write_bytes(data)
        return what

    def _bytes(self, name: str, rng: random.Random) -> str:
        others = [self._sandbox.original(rng.choice(self._sandbox.files()))]
        data, what = changed_bytes(self._sandbox.original(name), others, rng)
        (self._sandbox.victim / name).write_bytes(data)
        return what

    def _file(self, name: str, rng: random.Random) -> str:
        return change_a_file(self._sandbox, name, rng)

    def _folder(self, name: str, rng: random.Random) -> str:
        return change_a_folder(self._sandbox, name.rpartition("/")[0], rng)

    def _sign(self, name: str) -> str:
        """The index says what the file is now, if both are files."""
        path = self._sandbox.victim / name
        index = path.with_name(INDEX)
        if path == index or path.is_symlink() or not path.is_file() or not index.is_file():
            return "not signed"
        values = json.loads(self._sandbox.original(str(index.relative_to(self._sandbox.victim))))
        if path.name not in values["files"]:
            return "not listed"
        data = path.read_bytes()
        values["files"][path.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        index.write_text(json.dumps(values))
        return "signed"


def _text(folder: Path) -> tuple[Corpus, Tokenizer]:
    folder.mkdir(parents=True)
    write_shard(
        folder / "train.parquet", [[f"Paragraph {group} {i} of a text." for i in range(20)] for group in range(4)]
    )
    write_shard(folder / "val.parquet", [["validation"]])
    corpus = Corpus(
        name="toy",
        text_digest="0" * 64,
        tokenizer_digest="0" * 64,
        older_digest="older",
        train_shards=(folder / "train.parquet",),
        val_shard=folder / "val.parquet",
        tokenizer_dir=folder / "tokenizer",
    )
    return corpus, Tokenizer({bytes([i]): i for i in range(256)}, vocab_size=265)


def _optimizer() -> ShardedOptimizer:
    torch.manual_seed(3)
    param = nn.Parameter(torch.randn(9, 3))
    spec = ParamSpec(name="table", param=param, kind="adamw", group="tables", lr=0.3, master=False)
    return ShardedOptimizer([spec], ALONE, compute_dtype=torch.bfloat16)


def _packed(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def _tensors() -> list[Any]:
    """What can be in the place of a tensor."""
    numbers = torch.arange(5)
    return [
        *(torch.zeros(0, dtype=kind) for kind in (torch.int64, torch.uint8, torch.float32, torch.bool)),
        *(numbers - 2, numbers.float() * 1e30, numbers.to(torch.complex64), numbers.reshape(5, 1), torch.tensor(7)),
        *(
            torch.tensor([2**62, -(2**62)]),
            torch.full((624,), -1),
            torch.tensor([float("nan")]),
            torch.eye(3).to_sparse(),
        ),
        *(torch.zeros(5056, dtype=torch.uint8), torch.zeros(1).expand(10**6), numbers.to(torch.bfloat16)),
    ]


def _changed_object(value: Any, values: list[Any], rng: random.Random, where: str = "") -> tuple[Any, str]:
    """Torch's metadata with one field of one of its objects changed."""
    inside: list[tuple[str, Any]] = []
    if is_dataclass(value) and not isinstance(value, type):
        inside = [(field.name, getattr(value, field.name, None)) for field in fields(value)]
    elif isinstance(value, dict):
        inside = [(str(key), key) for key in value]
    if not inside or rng.random() < 0.1:
        new = rng.choice(values)
        return new, f"{where} = {repr(new)[:60]}"
    name, item = rng.choice(inside)
    if isinstance(value, dict):
        if rng.random() < 0.2:
            return {key: kept for key, kept in value.items() if key != item}, f"{where} without {name}"
        new, what = _changed_object(value[item], values, rng, f"{where}/{name}")
        return {**value, item: new}, what
    new, what = _changed_object(item, values, rng, f"{where}.{name}")
    with contextlib.suppress(Exception):  # torch's own classes check some of what they hold
        return replace(cast(Any, value), **{name: new}), what
    return new, what
