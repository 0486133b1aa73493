"""What the trainer tells its caller: the facts of a start, one record per optimizer step, and the result.

Plain frozen dataclasses of numbers and strings, so that a row of storage, a log line and a test can all be made from
them without torch.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

MAX_PASSES = 4
"""How often a run may pass over its text without a warning. Up to four passes teach nearly as much as new text does;
many more teach little, and make losses look better than they are (Muennighoff et al. 2023, arXiv:2305.16264)."""
STEP_PHASES = ("data", "forward", "backward", "optimizer", "communication")
"""The parts of a step's time; they add up to at most its dt."""
PHASES = (*STEP_PHASES, "checkpoint")
"""The last: how long a save held up training between the step before and this one."""


@dataclass(frozen=True, kw_only=True)
class TextFacts:
    """Which text a run reads, in which tokens. Runs are comparable if both digests are equal."""

    text_digest: str  # of the contents of all shards in their order; of the novels for the embedded text
    tokenizer_digest: str
    num_text_shards: int


@dataclass(frozen=True, kw_only=True)
class StartFacts:
    """Known once the model is built, before the first step."""

    world_size: int
    device: str  # "cpu" or "cuda"
    device_name: str
    peak_bf16_flops: float | None  # of the card, dense; None if it is not known (any CPU)
    num_steps: int
    first_step: int  # 0, or where a checkpoint continues
    total_batch_tokens: int
    grad_accum_steps: int
    flops_per_token: float
    num_params: int
    num_active_params: int
    backends: dict[str, str]  # part of the model -> kernel: attention, linears, mlp, experts, compute
    compile_cache: str  # "cold", "warm", "mixed" (some graphs were there, some not) or "none"
    text_digest: str | None = None  # the next three as in TextFacts; None from versions that did not look
    tokenizer_digest: str | None = None
    num_text_shards: int | None = None
    text_tokens: int | None = None  # of the training text, counted, or estimated for a long one
    compile_fallback: str | None = None  # why the run continues uncompiled, if compiling failed


@dataclass(frozen=True, kw_only=True)
class StepStats:
    """One optimizer step, reduced over ranks. None means not measured here."""

    step: int  # counts from 0
    num_steps: int
    loss: float  # cross-entropy in nats per token, mean over ranks and micro-steps
    loss_ema: float  # debiased exponential average (0.9) of rank 0's last micro-batch; the log line's loss
    bal: float | None  # balance loss summed over layers; top_k x layers is perfect
    lr_mult: float
    dt_ms: float  # wall time of the step on its slowest rank
    dt_median_ms: float
    slowest_rank: int
    data_ms: float | None = None  # waiting for batches; the slowest rank's, as the next five (nanochat.metering.phases)
    forward_ms: float | None = None
    backward_ms: float | None = None  # with the communication that runs along
    optimizer_ms: float | None = None
    communication_ms: float | None = None  # waiting for other ranks
    checkpoint_ms: float | None = None  # training held up by a save before this step; no part of dt
    data_median_ms: float | None = None  # the same six on the median rank
    forward_median_ms: float | None = None
    backward_median_ms: float | None = None
    optimizer_median_ms: float | None = None
    communication_median_ms: float | None = None
    checkpoint_median_ms: float | None = None
    injected_ms: float | None = None  # of dt_ms, by which run.inject_pct delayed the step
    tok_per_sec: float
    bf16_mfu_pct: float | None
    useful_mfu_pct: float | None  # without the work of dropped assignments
    compiled_graphs: int | None = None  # by torch.compile in this step, on the rank that compiled most
    epoch: int  # counts from 1
    served_digest: str | None = None  # of all tokens served up to this step; None behind a checkpoint without one
    train_time_s: float  # sum of dt over steps > 10, over all attempts
    dropped_pct: float | None  # of all (token, expert) assignments
    max_vio: float | None  # worst layer's max expert load / mean load - 1
    dead_experts: float | None  # experts with a load under 10 % of the mean, summed over layers, mean over micro-steps
    lost_tokens_pct: float | None  # tokens that lost all their experts, mean over layers
    z_loss: float | None = None  # routers' z-loss summed over layers; None where it has no weight
    largest_router_bias: float | None = None  # of any expert, by magnitude; None where routers have no bias
    layer_dropped_pct: tuple[float, ...] | None = None  # the next four: of each layer with experts, to 4 decimals
    layer_max_vio: tuple[float, ...] | None = None
    layer_dead_experts: tuple[float, ...] | None = None
    layer_lost_tokens_pct: tuple[float, ...] | None = None
    peak_mib: float  # max over ranks: torch's max_memory_allocated; on a CPU the peak resident set
    gpu_clock_mhz: float | None = None  # lowest of all ranks; this and the next three at 1 Hz, None on a CPU
    gpu_power_w: float | None = None  # highest of all ranks
    gpu_temperature_c: float | None = None  # highest of all ranks
    gpu_throttle_bits: int | None = None  # set on any rank; nanochat.throttle names them
    val_bpb: float | None  # validation bits per byte, if measured after this step
    core_metric: float | None = None  # mean centred accuracy of the CORE questions, if asked after this step
    lr: float | None = None  # Muon's rate for the layers' matrices, before the factor of a matrix's shape
    grad_norm: float | None = None  # of the mean gradient of all parameters, before the update; not clipped
    ended_unix_s: float | None = None  # when rank 0 had the step's numbers, by its clock
    flags: tuple[str, ...]  # why the step's time may not count: warmup, resumed, fallback, eval, storage, ...


WARMUP_STEPS = 20
"""How many steps of every start are flagged as warm-up: compile, first batches, clocks."""

REPEATABLE = frozenset(
    {
        *(
            "step",
            "num_steps",
            "epoch",
            "served_digest",
            "lr_mult",
            "lr",
            "grad_norm",
            "loss",
            "loss_ema",
            "bal",
            "z_loss",
            "val_bpb",
            "core_metric",
        ),
        *("dropped_pct", "max_vio", "dead_experts", "lost_tokens_pct", "largest_router_bias"),
        *("layer_dropped_pct", "layer_max_vio", "layer_dead_experts", "layer_lost_tokens_pct"),
    }
)
"""The fields of StepStats that training computes: equal, bit for bit on a CPU, however often a run is interrupted. All
others tell what a step cost, or what happened around it."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a call of `train` ended."""

    last_step: int  # of this call; first_step - 1 if none ran
    completed: bool  # False: asked to stop before the last step
    peak_mib: float
    total_time_min: float  # steps > 10 only
    min_val_bpb: float | None
    num_skipped: int  # steps of the whole run that changed nothing, because a gradient was not finite


CHECKPOINT_INDEX = "checkpoint.json"
"""The file of a checkpoint that is written last: a folder without it is none."""


class Checkpoint(Protocol):
    """A checkpoint to be written: every rank writes its part into its own or a shared folder.

    It is called on one thread, which need not be the one that trains; it has collectives of its own.
    """

    @property
    def step(self) -> int:
        """The number of optimizer steps done, so the next step's index."""
        ...

    def write(self, folder: Path) -> None:
        """Collective over all ranks. Files appear in `folder`; rank 0 writes CHECKPOINT_INDEX last."""

    def together(self, action: Callable[[], Any], *, first_only: bool = False) -> object:
        """Collective. Runs `action` on every rank, or on rank 0 alone; if it fails on one, raises on all."""


def _nothing(what: object) -> None:
    """What a hook does for whom the moment does not matter."""


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """All that differs between torchrun and Ray Train. Called on every rank and on the training thread unless said.

    A save has three hooks: `before_save`, then `save`, which can take its time on another thread while training goes
    on, then `saved` at a step boundary after `save` has returned on every rank. Without any, a run starts from the
    beginning, keeps no checkpoint and goes to its end.
    """

    on_text: Callable[[TextFacts], None] = _nothing  # every rank, before all else; raises if the run may not read it
    on_start: Callable[[StartFacts], None] = _nothing  # rank 0
    on_step: Callable[[StepStats], None] = _nothing  # rank 0
    save: Callable[[Checkpoint], None] = _nothing  # on one other thread, if the run continues after this step
    checkpoints: Callable[[], Iterable[Path]] = tuple  # complete or not, newest first; the trainer verifies them
    may_start_anew: bool = True  # from the beginning, if there are checkpoints and all are damaged
    should_stop: Callable[[], bool] = lambda: False  # asked on every rank after every step; one is enough
    step_done: Callable[[], None] = lambda: None  # after every step, for who watches that each rank continues
    before_save: Callable[[int], None] = _nothing  # the checkpoint's step
    saved: Callable[[int], None] = _nothing  # the checkpoint's step


def stats_as_dict(stats: Any) -> dict[str, Any]:
    """A flat dict of a stats dataclass, tuples as lists: what a JSON row holds."""
    fields = cast(dict[str, Any], vars(stats))
    return {k: list(cast(tuple[Any, ...], v)) if isinstance(v, tuple) else v for k, v in fields.items()}
