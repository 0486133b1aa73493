"""One frozen description of a training run.

A `TrainConfig` is everything that decides what a run computes. It is checked when it is built, it is never changed
afterwards, and two runs are the same run when the digests of their configs are equal. How many GPUs serve a run is not
in it: the batch is fixed in tokens, so the same config gives the same mathematics on any number of ranks.

`None` means absent (no capacity bound, no evaluation); there are no sentinel numbers here, those live in `flags.py`.
"""

import dataclasses
import difflib
import functools
import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from nanochat.values import alternatives_of, misfit, plain, shown

Precision = Literal["bf16", "fp8"]
LinearsPrecision = Literal["bf16", "fp8", "fp8_head", "fp8_attention", "fp8_qkv", "fp8_out"]  # fp8: all of them
Fp8Recipe = Literal["tensorwise", "rowwise"]
CompileMode = Literal["static", "dynamic", "none"]
CompileFallback = Literal["error", "none"]
AttentionBackend = Literal["auto", "sdpa", "flash", "flash4"]
KernelsSetting = Literal["auto", "torch"]


MAX_DEPTH = 10_000
MAX_INJECT_PCT = 1000.0
MAX_STEPS = 2**31 - 1  # tables count steps in 32 bits


class ConfigError(ValueError):
    """A config that cannot be: names the field, what was seen and what to do."""


class TextError(ConfigError):
    """The text that a config names is missing, or cannot be trained on; the run itself did nothing wrong."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of the transformer; the width follows from depth x aspect_ratio, rounded up to whole heads."""

    depth: int = 20
    aspect_ratio: int = 64
    head_dim: int = 128
    seq_len: int = 2048
    vocab_size: int = 32768
    window_pattern: str = "SSSL"  # per layer, tiled: S = half the context, L = all of it; the last layer is always L
    attention: AttentionBackend = "auto"

    def __post_init__(self) -> None:
        _check_kinds("model", self)
        for name in ("depth", "aspect_ratio", "head_dim", "seq_len", "vocab_size"):
            _require(getattr(self, name) > 0, f"model.{name} must be positive, got {getattr(self, name)}")
        _require(self.depth <= MAX_DEPTH, f"model.depth must be at most {MAX_DEPTH:,}, got {self.depth:,}")
        _require(self.head_dim % 2 == 0, f"model.head_dim must be even for rotary embeddings, got {self.head_dim}")
        pattern_ok = bool(self.window_pattern) and set(self.window_pattern) <= {"S", "L"}
        _require(pattern_ok, f"model.window_pattern holds letters S and L only, got {self.window_pattern!r}")

    @property
    def num_heads(self) -> int:
        """Attention heads; keys and values have as many."""
        return -(-self.depth * self.aspect_ratio // self.head_dim)

    @property
    def width(self) -> int:
        """The residual stream's width D."""
        return self.num_heads * self.head_dim

    @property
    def padded_vocab_size(self) -> int:
        """The vocabulary rounded up to a multiple of 64; logits are sliced back to `vocab_size`."""
        return -(-self.vocab_size // 64) * 64

    def window_tokens(self, layer: int) -> int:
        """How far back, in tokens, a position of `layer` sees; the whole context where the layer has no window."""
        letter = "L" if layer == self.depth - 1 else self.window_pattern[layer % len(self.window_pattern)]
        return self.seq_len if letter == "L" else max(1, self.seq_len // 2)

    def has_value_embedding(self, layer: int) -> bool:
        """Every second layer has its own value embedding table, the last layer included."""
        return layer % 2 == (self.depth - 1) % 2


@dataclass(frozen=True, kw_only=True)
class MoEConfig:
    """Mixture of experts in place of the MLP in layers 0, every, 2 x every, ..."""

    num_experts: int = 8
    top_k: int = 2
    every: int = 1
    hidden_mult: int = 4
    capacity_factor: float | None = None  # None: exact routing, no token is dropped
    balance_loss_coeff: float = 0.01
    router_z_loss_coeff: float = 0.0
    router_bias_rate: float = 0.0  # how far a step moves an expert's bias towards even load; 0: no bias

    def __post_init__(self) -> None:
        _check_kinds("moe", self)
        for name in ("num_experts", "top_k", "every", "hidden_mult"):
            _require(getattr(self, name) > 0, f"moe.{name} must be positive, got {getattr(self, name)}")
        _require(self.top_k <= self.num_experts, f"moe.top_k {self.top_k} exceeds moe.num_experts {self.num_experts}")
        if self.capacity_factor is not None:
            _require(
                self.capacity_factor > 0,
                f"moe.capacity_factor must be positive, or None for exact routing; got {self.capacity_factor}",
            )
        for name in ("balance_loss_coeff", "router_z_loss_coeff", "router_bias_rate"):
            _require(getattr(self, name) >= 0, f"moe.{name} must be >= 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class PrecisionConfig:
    """Which matrices multiply in FP8. `linears` are attention, the head, and the MLP of layers without experts.

    Router, embeddings and gates never multiply in FP8.
    """

    linears: LinearsPrecision = "bf16"
    experts: Precision = "bf16"
    recipe: Fp8Recipe = "tensorwise"

    @property
    def uses_fp8(self) -> bool:
        """True if any matrix multiplies in FP8."""
        return (self.linears, self.experts) != ("bf16", "bf16")

    def __post_init__(self) -> None:
        _check_kinds("precision", self)


@dataclass(frozen=True, kw_only=True)
class CompileConfig:
    """How torch.compile sees a layer: fixed shapes, symbolic shapes, or not at all; and what follows if it fails."""

    mode: CompileMode = "static"
    fallback: CompileFallback = "error"  # none: the run continues uncompiled, and is marked
    kernels: KernelsSetting = "auto"  # torch: none of the faster kernels for Hopper, attention apart

    def __post_init__(self) -> None:
        _check_kinds("compile", self)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Peak learning rates of Muon (the layers' matrices) and AdamW (the rest), before scaling by width and batch."""

    embedding_lr: float = 0.3
    unembedding_lr: float = 0.004
    matrix_lr: float = 0.02
    scalar_lr: float = 0.5
    weight_decay: float = 0.2
    adam_beta1: float = 0.8
    adam_beta2: float = 0.95

    def __post_init__(self) -> None:
        _check_kinds("optim", self)
        for name in ("embedding_lr", "unembedding_lr", "matrix_lr", "scalar_lr", "weight_decay"):
            _require(getattr(self, name) >= 0, f"optim.{name} must be >= 0, got {getattr(self, name)}")
        for name in ("adam_beta1", "adam_beta2"):
            _require(0 <= getattr(self, name) < 1, f"optim.{name} must be in [0, 1), got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How long the run is (the first of the three that is set) and the learning rate's shape over it."""

    num_steps: int | None = None
    target_flops: float | None = None
    target_param_data_ratio: float | None = 10.5
    warmup_ratio: float = 0.0
    warmdown_ratio: float = 0.5
    final_lr_frac: float = 0.0

    def __post_init__(self) -> None:
        _check_kinds("schedule", self)
        for name in ("num_steps", "target_flops", "target_param_data_ratio"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"schedule.{name} must be positive or None, got {value}")
        too_many = self.num_steps is not None and self.num_steps > MAX_STEPS
        _require(not too_many, f"schedule.num_steps must be at most {MAX_STEPS:,}, got {self.num_steps}")
        some = (self.num_steps, self.target_flops, self.target_param_data_ratio) != (None, None, None)
        _require(some, "schedule needs num_steps, target_flops or target_param_data_ratio; all three are None")
        for name in ("warmup_ratio", "warmdown_ratio", "final_lr_frac"):
            _require(0 <= getattr(self, name) <= 1, f"schedule.{name} must be in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read and how much of it makes one optimizer step."""

    source: str | None = None  # a folder of Parquet shards; None: the embedded Austen corpus
    device_batch_size: int = 32  # rows of seq_len tokens in one micro-step of one rank
    total_batch_tokens: int | None = None  # tokens per optimizer step over all ranks; None: from the model's size

    def __post_init__(self) -> None:
        _check_kinds("data", self)
        _require(self.device_batch_size > 0, f"data.device_batch_size must be positive, got {self.device_batch_size}")
        _require(self.source != "", "data.source must be a folder, or None for the embedded corpus; got an empty text")
        total = self.total_batch_tokens
        _require(total is None or total > 0, f"data.total_batch_tokens must be positive or None, got {total}")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """What is measured beside the loss, and how often; None switches a measure off."""

    every: int | None = 250
    num_tokens: int = 20 * 2**20
    core_every: int | None = 2000
    core_max_per_task: int = 500
    core_bundle: str | None = None  # the folder with the questions of CORE; None: eval_bundle in the cache folder
    sample_every: int | None = 2000

    def __post_init__(self) -> None:
        _check_kinds("eval", self)
        for name in ("every", "core_every", "sample_every"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"eval.{name} must be positive or None, got {value}")
        _require(
            self.core_bundle != "", "eval.core_bundle must be a folder, or None for the default; got an empty text"
        )
        _require(self.num_tokens > 0, f"eval.num_tokens must be positive, got {self.num_tokens}")
        # The upstream format counts "all of them" as no bound.
        _require(self.core_max_per_task != 0, "eval.core_max_per_task must not be 0; a negative number means all")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The run itself: its name, seed, device and checkpoints."""

    name: str = "dummy"
    seed: int = 42
    device: Literal["cpu", "cuda"] | None = None  # None: the GPU if there is one
    deterministic: bool = False
    checkpoint_every: int | None = None
    final_checkpoint: bool = True
    log_every: int = 1
    inject_pct: float = 0.0  # of a step's time, by which every step is delayed: to see whether a difference is found

    def __post_init__(self) -> None:
        _check_kinds("run", self)
        _require(
            0 <= self.inject_pct <= MAX_INJECT_PCT,
            f"run.inject_pct must be from 0 to {MAX_INJECT_PCT:,.0f}, got {self.inject_pct}",
        )
        every = self.checkpoint_every
        _require(every is None or every > 0, f"run.checkpoint_every must be positive or None, got {every}")
        _require(self.log_every > 0, f"run.log_every must be positive, got {self.log_every}")
        _require(self.seed >= 0, f"run.seed must be >= 0, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A complete run. Build it by a recipe, change it by `with_overrides`."""

    model: ModelConfig = field(default_factory=ModelConfig)
    moe: MoEConfig | None = None
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    compile: CompileConfig = field(default_factory=CompileConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    data: DataConfig = field(default_factory=DataConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        for name, kind in _SECTION_TYPES.items():
            section = getattr(self, name)
            if section is None and name == "moe":
                continue
            absent = " or None" if name == "moe" else ""
            _require(isinstance(section, kind), f"{name} must be a {kind.__name__}{absent}, got {shown(section)}")
        _require(
            self.precision.experts == "bf16" or self.moe is not None,
            "precision.experts is 'fp8' but the model has no experts (moe is None); set moe or keep experts in bf16",
        )
        total, micro = self.data.total_batch_tokens, self.micro_batch_tokens
        if total is not None:
            _require(
                total % micro == 0,
                f"data.total_batch_tokens {total:,} is no multiple of one micro-batch of {micro:,} tokens "
                f"(device_batch_size {self.data.device_batch_size} x seq_len {self.model.seq_len})",
            )

    @property
    def micro_batch_tokens(self) -> int:
        """Tokens in one forward and backward of one rank."""
        return self.data.device_batch_size * self.model.seq_len


def _check_kinds(section: str, holder: Any) -> None:
    """Raises ConfigError unless every field of a section can hold its value, before its own checks compare them."""
    for each in dataclasses.fields(_SECTION_TYPES[section]):
        wrong = misfit(getattr(holder, each.name), field_alternatives(f"{section}.{each.name}"))
        _require(wrong is None, f"{section}.{each.name} {wrong}")


_SECTION_TYPES: dict[str, type[Any]] = {
    "model": ModelConfig,
    "moe": MoEConfig,
    "precision": PrecisionConfig,
    "compile": CompileConfig,
    "optim": OptimConfig,
    "schedule": ScheduleConfig,
    "data": DataConfig,
    "eval": EvalConfig,
    "run": RunConfig,
}


@functools.cache
def field_paths() -> tuple[str, ...]:
    """Every field of a TrainConfig as a dotted path, in order."""
    return tuple(f"{name}.{f.name}" for name, kind in _SECTION_TYPES.items() for f in dataclasses.fields(kind))


@functools.cache
def field_alternatives(path: str) -> tuple[Any, ...]:
    """What a field may hold: types (`int`, `type(None)`) and literal values. Raises ConfigError for an unknown path."""
    check_path(path)
    section, name = path.split(".")
    return alternatives_of(typing.get_type_hints(_SECTION_TYPES[section])[name])


def check_path(path: str, *, or_section: bool = False) -> None:
    """Raises ConfigError, with the nearest right name, unless `path` is a field of TrainConfig.

    With `or_section` it can also be the name of a whole section.
    """
    known = (*(_SECTION_TYPES if or_section else ()), *field_paths())
    if path not in known:
        near = difflib.get_close_matches(str(path), known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"unknown config field {shown(path)}{hint}")


def is_section(path: str) -> bool:
    """True for the name of a whole section, such as `moe`."""
    return path in _SECTION_TYPES


def section_type(name: str) -> type[Any]:
    """The class of a section."""
    return _SECTION_TYPES[name]


def get_field(config: TrainConfig, path: str) -> Any:
    """The value at a dotted path, None where the whole section is absent; or a section by its name."""
    check_path(path, or_section=True)
    section, _, name = path.partition(".")
    holder = getattr(config, section)
    return holder if not name or holder is None else getattr(holder, name)


def with_overrides(config: TrainConfig, overrides: Mapping[str, Any]) -> TrainConfig:
    """A copy with some values replaced, at the dotted paths of fields or at the names of whole sections.

    A section is one of its class, a dict of the fields that differ from their defaults, or, for `moe` alone, None.
    Without experts none are in FP8, so `moe` None takes precision.experts back to bf16. All changes are made at once,
    so two that are only valid together are accepted; fields of a section that is replaced change the new one.
    Raises ConfigError for unknown paths or bad values.
    """
    for path in overrides:
        check_path(path, or_section=True)
    changed = {path: _section(path, value) for path, value in overrides.items() if is_section(path)}
    fields: dict[str, dict[str, Any]] = {}
    if changed.get("moe", config.moe) is None and config.moe is not None and "precision" not in changed:
        fields["precision"] = {"experts": "bf16"}
    for path, value in overrides.items():
        section, _, name = path.partition(".")
        if name and not (value is None and section in changed and changed[section] is None):
            fields.setdefault(section, {})[name] = value
    for section, values in fields.items():
        holder = changed[section] if section in changed else getattr(config, section)
        if holder is None:
            raise ConfigError(
                f"{section}.{next(iter(values))} cannot be set: this config has no {section} section "
                f"(start from a recipe that has one)"
            )
        changed[section] = dataclasses.replace(holder, **values)
    return dataclasses.replace(config, **changed)


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """The config as plain nested dicts, ready for JSON."""
    return plain(config)


def from_dict(values: dict[str, Any]) -> TrainConfig:
    """The inverse of `to_dict`. Raises ConfigError for unknown sections or fields and for bad values."""
    for name in values:
        if name not in _SECTION_TYPES:
            near = difflib.get_close_matches(name, list(_SECTION_TYPES), n=1, cutoff=0.4)
            raise ConfigError(f"unknown config section {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
    return TrainConfig(**{name: _section(name, body) for name, body in values.items()})


def _section(name: str, value: Any) -> Any:
    """A section from its plain form. What is no section at all is left to TrainConfig, which refuses it."""
    if not isinstance(value, Mapping):
        return value
    body = cast(Mapping[str, Any], value)
    for field_name in body:
        check_path(f"{name}.{field_name}")
    return _SECTION_TYPES[name](**body)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. 1.0 and 1 are equal values."""
    return json.dumps(_whole(plain(value)), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _whole(value: Any) -> Any:
    """A plain value with 1.0 as 1."""
    if isinstance(value, dict):
        return {k: _whole(v) for k, v in cast(dict[str, Any], value).items()}
    if isinstance(value, list):
        return [_whole(v) for v in cast(list[Any], value)]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def digest(value: Any) -> str:
    """sha256, in hex, of the canonical JSON of a config (or of any plain value)."""
    body = to_dict(value) if isinstance(value, TrainConfig) else value
    return hashlib.sha256(canonical_json(body).encode()).hexdigest()
