"""Everything a run needs, built from its config: device, data, model, optimizer, and where it continues from."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanochat import sizes
from nanochat.checkpoints import format as checkpoint
from nanochat.config import ConfigError, EvalConfig, TextError, TrainConfig, digest
from nanochat.data.cache import cache_folder
from nanochat.data.corpus import Corpus, open_corpus
from nanochat.data.feed import Feed
from nanochat.data.lanes import Lanes
from nanochat.data.size import count_tokens
from nanochat.data.tokenizer import Tokenizer
from nanochat.data.tokenizer import load as load_tokenizer
from nanochat.evaluation.core_tasks import Task, open_bundle
from nanochat.loop.parameters import param_specs
from nanochat.machine.caches import use_private_folders
from nanochat.machine.device import Device, open_device
from nanochat.machine.ranks import Ranks
from nanochat.model import compiling
from nanochat.model.attention import resolve_backend
from nanochat.model.fp8 import convert_linears
from nanochat.model.gpt import GPT
from nanochat.model.kernel_choice import Kernels, choose_kernels, missing_kernels
from nanochat.model.roles import multiplies_in_fp8, role_of
from nanochat.optimizer import schedule
from nanochat.optimizer.accumulation import adds_in_fp32
from nanochat.optimizer.sharded import ShardedOptimizer
from nanochat.stats import Hooks, StartFacts, TextFacts

_STATE_SECTIONS = ("model", "moe", "precision", "optim", "schedule", "data")


@dataclass
class Progress:
    """The loop's own numbers; all of them travel in a checkpoint."""

    steps_done: int = 0
    loss_ema: float = 0.0  # before debiasing, which divides by ema_weight
    ema_weight: float = 0.0
    train_time_s: float = 0.0
    min_val_bpb: float | None = None
    skipped_in_a_row: int = 0
    num_skipped: int = 0

    def restore(self, stored: Mapping[str, Any], folder: Path) -> None:
        """Takes the numbers of a checkpoint; one that is not there stays. Raises CheckpointError for what is none."""
        for field in fields(self):
            value = stored.get(field.name, field.default)
            is_whole = isinstance(field.default, int)
            fits = type(value) is int and 0 <= value < 2**31 if is_whole else type(value) in (int, float)
            if not (fits or (value is None and field.default is None)):
                shown = str(value)[:40]
                raise checkpoint.CheckpointError(f"{folder} is damaged: the trainer's {field.name} is {shown!r}")
            setattr(self, field.name, value)


@dataclass(frozen=True)
class Run:
    """A run that is ready for its next step."""

    config: TrainConfig
    device: Device
    ranks: Ranks
    model: GPT
    optimizer: ShardedOptimizer
    feed: Feed
    val_lanes: Lanes | None
    tokenizer: Tokenizer
    token_bytes: Tensor  # (V,) int64
    core_tasks: tuple[Task, ...] | None
    progress: Progress
    num_steps: int
    peak_weight_decay: float
    backends: dict[str, str]
    text: TextFacts
    text_tokens: int | None  # known on rank 0

    def state(self) -> checkpoint.TrainState:
        """This rank's share of a checkpoint at this moment."""
        return checkpoint.TrainState.of(
            self.optimizer,
            self.model.router_biases(),
            step=self.progress.steps_done,
            config_digest=state_digest(self.config),
            lanes=self.feed.state(),
            trainer=vars(self.progress),
        )

    def start_facts(self) -> StartFacts:
        """What is known before the first step; the compile cache's state is known after it."""
        counts = sizes.count_params(self.config)
        return StartFacts(
            world_size=self.ranks.world_size,
            device=self.device.torch_device.type,
            device_name=self.device.name,
            peak_bf16_flops=self.device.peak_flops,
            num_steps=self.num_steps,
            first_step=self.progress.steps_done,
            total_batch_tokens=sizes.batch_tokens(self.config),
            grad_accum_steps=self.feed.num_micro_steps,
            flops_per_token=sizes.flops_per_token(self.config),
            num_params=counts.total,
            num_active_params=counts.active_total,
            backends=self.backends,
            compile_cache=compiling.cache_state(self.config.compile.mode),
            text_tokens=self.text_tokens,
            **vars(self.text),
        )


def state_digest(config: TrainConfig) -> str:
    """What a checkpoint must agree in to be continued: all that shapes the state and the path it was on.

    Fields at their default are left out, so a new field that changes nothing by default keeps older checkpoints good.
    Where the text is does not matter: the lanes' states know what it holds.
    """
    return digest_of_sections(config, left_out={"source"})


def may_continue(stored_digest: str, config: TrainConfig) -> bool:
    """True for a checkpoint of this config; older versions' digests know where the text was, as it was written."""
    return stored_digest in (state_digest(config), digest_of_sections(config, left_out=set()))


def digest_of_sections(config: TrainConfig, left_out: set[str]) -> str:
    """Returns the digest of what decides a run's state, without these fields of `data`."""
    sections = {name: getattr(config, name) for name in _STATE_SECTIONS}
    chosen = {name: None if section is None else _not_default(section) for name, section in sections.items()}
    data = {name: value for name, value in (chosen["data"] or {}).items() if name not in left_out}
    return digest(chosen | {"data": data, "seed": config.run.seed})


def _not_default(section: Any) -> dict[str, Any]:
    """The fields of a config's section that were set to something else than their default."""
    values = [(field, getattr(section, field.name)) for field in fields(section)]
    return {field.name: value for field, value in values if value != field.default}


def seed_everything(seed: int) -> None:
    """Seeds every generator equally on all ranks: weights are drawn alike, and nothing else is random."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _open_text(config: TrainConfig, hooks: Hooks, ranks: Ranks) -> Corpus:
    """Collective. The text, if the run may read it. Raises TextError if it is missing or ranks see different ones."""
    corpus = open_corpus(config.data.source)
    seen = [int(number) for (number,) in ranks.all_gather_floats([float(int(corpus.digest[:12], 16))])]
    others = [rank for rank, number in enumerate(seen) if number != seen[0]]
    if others:
        raise TextError(
            f"rank {others[0]} reads another text or tokenizer from {config.data.source} than rank 0 (digests "
            f"{seen[others[0]]:012x} and {seen[0]:012x}); put the same files there on every node"
        )
    hooks.on_text(corpus.facts())
    return corpus


def _lanes(config: TrainConfig, corpus: Corpus, tokenizer: Tokenizer, ranks: Ranks) -> tuple[Lanes, Lanes | None]:
    if tokenizer.vocab_size != config.model.vocab_size:
        raise ConfigError(
            f"model.vocab_size is {config.model.vocab_size:,} but the tokenizer of {corpus.name} has "
            f"{tokenizer.vocab_size:,} entries; set model.vocab_size to that"
        )
    rows = {"batch_size": config.data.device_batch_size, "seq_len": config.model.seq_len}
    where = {"rank": ranks.rank, "world_size": ranks.world_size}
    num_lanes = sizes.num_lanes(config)  # of validation as many, so that it too is the same on any number of ranks
    train = Lanes(corpus, tokenizer, split="train", num_lanes=num_lanes, **rows, **where)
    val = None
    if config.eval.every is not None:
        val = Lanes(corpus, tokenizer, split="val", num_lanes=num_lanes, **rows, **where)
    return train, val


def core_folder(evaluation: EvalConfig) -> Path:
    """Where the questions of the CORE metric lie."""
    return Path(evaluation.core_bundle).expanduser() if evaluation.core_bundle else cache_folder() / "eval_bundle"


def _core_tasks(evaluation: EvalConfig, ranks: Ranks) -> tuple[Task, ...] | None:
    """What the CORE metric asks. A run with default settings goes without where there is no bundle."""
    if evaluation.core_every is None:
        return None
    folder, unset = core_folder(evaluation), EvalConfig()
    by_default = (evaluation.core_every, evaluation.core_bundle) == (unset.core_every, unset.core_bundle)
    if by_default and not ranks.all(folder.is_dir()):
        return None
    return open_bundle(folder)


def _build_model(config: TrainConfig, device: Device, attention: str, kernels: Kernels) -> GPT:
    """The model with fp32 initial weights, drawn on the CPU: the same on every device and any number of ranks."""
    with torch.device("meta"):  # else torch's own initial values would be drawn first, for nothing
        model = GPT(config, attention, kernels)
    model.to_empty(device="cpu")
    seed_everything(config.run.seed)
    model.initialize(device.torch_device, device.compute_dtype)
    if not kernels.makes_fp8(config.precision):
        convert_linears(model, config.precision, emulate=not device.is_cuda)
    return model.to(device.torch_device)


def prepare(config: TrainConfig, hooks: Hooks) -> Run:
    """Collective. Builds a run and, where `hooks` has a good checkpoint, puts it at that point.

    Raises ConfigError for what cannot be run here, checkpoint.CheckpointError for a state of another run.
    """
    use_private_folders(cache_folder())
    device = open_device(config.run, config.precision.uses_fp8)
    ranks = Ranks.from_environment(device.torch_device)
    sizes.check_world_size(config, ranks.world_size)
    sizes.check_width(config, in_bf16=device.compute_dtype == torch.bfloat16, has_fp8_units=device.is_cuda)
    attention = resolve_backend(config.model.attention, device.torch_device, config.model.head_dim)
    kernels = choose_kernels(config.compile.kernels, device.torch_device, _widths(config))
    if ranks.is_first:
        for note in missing_kernels(config.compile.kernels, device.torch_device):
            print(note, flush=True)
    corpus = _open_text(config, hooks, ranks)
    tokenizer = load_tokenizer(corpus)
    train_lanes, val_lanes = _lanes(config, corpus, tokenizer, ranks)
    model = _build_model(config, device, attention, kernels)
    total = sizes.batch_tokens(config)
    optimizer = ShardedOptimizer(
        param_specs(model, config.optim, total),
        ranks,
        compute_dtype=device.compute_dtype,
        compile_updates=device.is_cuda and config.compile.mode != "none",
        grads_in_fp32=adds_in_fp32(sizes.num_lanes(config) // ranks.world_size),
        by_half=kernels.products == "quack",
        own_updates=kernels.own,
    )
    if kernels.own:
        model.add_in_products()
    decay_scale = schedule.weight_decay_scale(total, 1.0, sizes.scaling_ratio(config))
    run = Run(
        config=config,
        device=device,
        ranks=ranks,
        model=model,
        optimizer=optimizer,
        feed=Feed(train_lanes, device.torch_device),
        val_lanes=val_lanes,
        tokenizer=tokenizer,
        token_bytes=torch.tensor(tokenizer.token_bytes(), dtype=torch.int64, device=device.torch_device),
        core_tasks=_core_tasks(config.eval, ranks),
        progress=Progress(),
        num_steps=sizes.num_steps(config),
        peak_weight_decay=config.optim.weight_decay * decay_scale,
        backends=_backends(config, device, attention, kernels),
        text=corpus.facts(),
        text_tokens=count_tokens(corpus, tokenizer) if ranks.is_first else None,
    )
    _continue_from_checkpoint(run, hooks)
    model.refresh_fp8()
    compiling.compile_model(model, config.compile.mode)
    return run


def _widths(config: TrainConfig) -> tuple[int, ...]:
    """The sizes that rows of the model's larger matrices have."""
    width = config.model.width
    return (width,) if config.moe is None else (width, config.moe.hidden_mult * width)


def _backends(config: TrainConfig, device: Device, attention: str, kernels: Kernels) -> dict[str, str]:
    """The kernel of each part of the model; `mlp` and `experts` only where layers have them."""
    has_experts = [sizes.is_moe_layer(config, layer) for layer in range(config.model.depth)]
    fp8_by = "quack" if kernels.makes_fp8(config.precision) else "torch"
    mlp = _kernel_name("fp8" if multiplies_in_fp8(role_of("mlp.up"), config.precision) else "bf16", device, fp8_by)
    experts = _kernel_name(config.precision.experts, device, fp8_by, kernels.products)
    return {
        "attention": attention,
        "linears": _kernel_name(config.precision.linears, device, fp8_by),
        **({"mlp": mlp} if not all(has_experts) else {}),
        **({"experts": experts} if any(has_experts) else {}),
        "loss": kernels.loss,
        "compute": str(device.compute_dtype).removeprefix("torch."),
    }


def _kernel_name(precision: str, device: Device, fp8_by: str, bf16_by: str = "torch") -> str:
    """The precision and, where it is not torch's, the library that multiplies in it."""
    if precision.startswith("fp8") and not device.is_cuda:
        return f"{precision} (emulated)"
    library = fp8_by if precision.startswith("fp8") else bf16_by
    return precision if library == "torch" else f"{precision} {library}"


def _continue_from_checkpoint(run: Run, hooks: Hooks) -> None:
    folder, warnings = checkpoint.latest_valid(hooks.checkpoints(), run.ranks)
    if run.ranks.is_first:
        for warning in warnings:
            print(f"warning: {warning}", flush=True)
    if folder is None:
        if warnings and not hooks.may_start_anew:
            raise checkpoint.CheckpointError(
                "none of the checkpoints to continue from is good, each for the reason above; name an older one by "
                "--resume-from-step, or start a new run under another --model-tag"
            )
        return
    index = checkpoint.read_index(folder)
    if not may_continue(index["config_digest"], run.config):
        raise checkpoint.CheckpointError(
            f"{folder} was written by a run with another config, or by a version of the trainer whose config has other "
            f"fields (digest {index['config_digest'][:8]}, this one is {state_digest(run.config)[:8]}); continue with "
            f"the same settings and version, or start a new run elsewhere"
        )
    state = checkpoint.read(folder, run.ranks, run.optimizer, run.model.router_biases())
    try:
        run.feed.load_state(dict(state.lanes))
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise checkpoint.CheckpointError(f"{folder} is damaged: it holds no data positions ({reason})") from error
    run.progress.restore(state.trainer, folder)
    if run.ranks.is_first:
        print(f"Continuing from {folder.name} at step {state.step}", flush=True)
