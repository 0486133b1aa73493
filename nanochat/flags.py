"""The trainer's command line: one table of flag <-> config field, used in both directions.

Sentinels (-1, 0.0, "") exist here and nowhere else: in a config, absent is None. The table's order is the order in
which `to_argv` prints: what describes a run always, the rest only where it differs from the default, and last the
three flags that tell the legs of a sweep apart. Names are never abbreviated. A flag can come twice only with one value:
with two, and the user who typed them expects one and gets the other.
"""

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from nanochat.config import ConfigError, MoEConfig, TrainConfig, get_field, with_overrides
from nanochat.values import shown


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a torchrun start needs beside the config: where checkpoints lie, and whether one is continued."""

    checkpoint_root: str | None = None
    model_tag: str | None = None
    resume: int | Literal["latest"] | None = None  # a number of steps done, or the newest complete checkpoint


@dataclass(frozen=True)
class Flag:
    """A flag with a value. `path` is a config field, or None for a run option; `absent` is how None is written."""

    name: str
    path: str | None
    kind: type[int] | type[float] | type[str]
    help: str
    absent: str | None = None
    always: bool = False

    @property
    def default(self) -> str:
        """The value that leaving the flag out means, as it is written."""
        return "auto" if self.name == "--compile-mode" else self.encode(_default_of(self.path))

    def decode(self, text: str) -> Any:
        """The field's value. Where the flag has a sentinel, any number that is not positive means absent."""
        try:
            value = self.kind(text)
        except ValueError:
            raise ConfigError(f"{self.name} takes {_KIND_WORDS[self.kind]}, got {shown(text)}") from None
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{self.name} takes a finite number, got {shown(text)}")
        if self.absent is None:
            return value
        return None if (value == "" if isinstance(value, str) else value <= 0) else value

    def encode(self, value: Any) -> str:
        """The inverse of `decode`."""
        return (self.absent or "") if value is None else str(self.kind(value))


@dataclass(frozen=True)
class Switch:
    """A flag without a value: given, it sets these fields. `needs` and `excludes` name other switches."""

    name: str
    sets: dict[str, Any] = field(hash=False)
    help: str
    needs: str | None = None
    excludes: tuple[str, ...] = ()


_KIND_WORDS: dict[type, str] = {int: "a whole number", float: "a number", str: "a text"}

FLAGS: tuple[Flag | Switch, ...] = (
    Switch("--use-moe", {}, "experts in place of the MLP"),
    Flag("--n-experts", "moe.num_experts", int, "experts per layer", always=True),
    Flag("--expert-topk", "moe.top_k", int, "experts that serve a token", always=True),
    Flag("--moe-freq", "moe.every", int, "every how many layers there are experts", always=True),
    Flag("--expert-hidden-mult", "moe.hidden_mult", int, "an expert's hidden width / model width", always=True),
    Flag("--balance-loss-coeff", "moe.balance_loss_coeff", float, "weight of the balance loss", always=True),
    Flag("--depth", "model.depth", int, "layers", always=True),
    Flag("--aspect-ratio", "model.aspect_ratio", int, "width / depth, rounded up to whole heads", always=True),
    Flag("--head-dim", "model.head_dim", int, "width of an attention head", always=True),
    Flag("--max-seq-len", "model.seq_len", int, "tokens of context", always=True),
    Flag("--device-batch-size", "data.device_batch_size", int, "rows in a rank's micro-batch", always=True),
    Flag("--num-iterations", "schedule.num_steps", int, "optimizer steps; wins over the next two", "-1", True),
    Flag("--eval-every", "eval.every", int, "steps between validations, -1: never", "-1", True),
    Flag("--core-metric-every", "eval.core_every", int, "steps between CORE metrics, -1: never", "-1"),
    Flag("--sample-every", "eval.sample_every", int, "steps between printed samples, -1: never", "-1"),
    Flag("--save-every", "run.checkpoint_every", int, "steps between checkpoints, -1: at the end only", "-1", True),
    Switch("--fp8", {"precision.linears": "fp8"}, "FP8 in attention, the head and each MLP without experts"),
    Switch("--fp8-include-moe-experts", {"precision.experts": "fp8"}, "and in the experts", needs="--fp8"),
    Switch(
        "--fp8-head",
        {"precision.linears": "fp8_head"},
        "FP8 in the head, not in attention",
        excludes=("--fp8", "--fp8-attention", "--fp8-qkv", "--fp8-out"),
    ),
    Switch(
        "--fp8-attention",
        {"precision.linears": "fp8_attention"},
        "FP8 in attention, not in the head",
        excludes=("--fp8", "--fp8-qkv", "--fp8-out"),
    ),
    Switch(
        "--fp8-qkv",
        {"precision.linears": "fp8_qkv"},
        "FP8 in queries, keys and values alone",
        excludes=("--fp8", "--fp8-out"),
    ),
    Switch("--fp8-out", {"precision.linears": "fp8_out"}, "FP8 in attention's output alone", excludes=("--fp8",)),
    Switch("--fp8-experts", {"precision.experts": "fp8"}, "FP8 in the experts without --fp8", excludes=("--fp8",)),
    Flag("--fp8-recipe", "precision.recipe", str, "tensorwise or rowwise scales"),
    Flag("--run", "run.name", str, "the run's name"),
    Flag("--device-type", "run.device", str, "cpu or cuda, empty: cuda if there is one", ""),
    Flag("--window-pattern", "model.window_pattern", str, "per layer, tiled: S half the context, L all of it"),
    Flag("--vocab-size", "model.vocab_size", int, "entries of the model's vocabulary"),
    Flag("--attention", "model.attention", str, "auto, sdpa, flash or flash4"),
    Flag("--target-flops", "schedule.target_flops", float, "length of the run in FLOPs", "-1.0"),
    Flag(
        "--target-param-data-ratio",
        "schedule.target_param_data_ratio",
        float,
        "length of the run in tokens per scaling parameter",
        "-1.0",
    ),
    Flag("--warmup-ratio", "schedule.warmup_ratio", float, "share of the run over which the rate rises"),
    Flag("--warmdown-ratio", "schedule.warmdown_ratio", float, "share of the run over which it falls"),
    Flag("--final-lr-frac", "schedule.final_lr_frac", float, "the last rate / the peak rate"),
    Flag("--total-batch-size", "data.total_batch_tokens", int, "tokens per step, -1: from the model's size", "-1"),
    Flag("--data", "data.source", str, "a folder of Parquet shards, empty: the embedded corpus", ""),
    Flag("--embedding-lr", "optim.embedding_lr", float, "peak rate of the embeddings"),
    Flag("--unembedding-lr", "optim.unembedding_lr", float, "peak rate of the head"),
    Flag("--matrix-lr", "optim.matrix_lr", float, "peak rate of the layers' matrices"),
    Flag("--scalar-lr", "optim.scalar_lr", float, "peak rate of the residual scalars"),
    Flag("--weight-decay", "optim.weight_decay", float, "of the layers' matrices, falling to 0"),
    Flag("--adam-beta1", "optim.adam_beta1", float, "first moment's decay"),
    Flag("--adam-beta2", "optim.adam_beta2", float, "second moment's decay"),
    Flag("--eval-tokens", "eval.num_tokens", int, "tokens of one validation, at most one pass"),
    Flag("--core-metric-max-per-task", "eval.core_max_per_task", int, "questions per task, negative: all"),
    Flag("--core-bundle", "eval.core_bundle", str, "folder of CORE's questions, empty: in the cache folder", ""),
    Flag("--seed", "run.seed", int, "seed of everything random"),
    Flag("--log-every", "run.log_every", int, "steps between log lines"),
    Flag("--inject-pct", "run.inject_pct", float, "delay of every step in percent of its time, 0.0: none"),
    Flag("--compile-fallback", "compile.fallback", str, "where compiling fails: error, or none: continue uncompiled"),
    Flag("--kernels", "compile.kernels", str, "auto, or torch: no faster kernels for Hopper; see --attention"),
    Flag("--router-bias-rate", "moe.router_bias_rate", float, "step of the routers' bias to even load, 0.0: none"),
    Flag("--router-z-loss-coeff", "moe.router_z_loss_coeff", float, "weight of the routers' z-loss"),
    Switch("--deterministic", {"run.deterministic": True}, "bit-equal repeats on a GPU, slower"),
    Switch("--no-final-save", {"run.final_checkpoint": False}, "no checkpoint at the end"),
    Flag("--resume-from-step", None, int, "continue the checkpoint after so many steps", "-1"),
    Flag("--resume", None, str, "latest: continue the newest complete checkpoint", ""),
    Flag("--checkpoint-root", None, str, "folder that holds base_checkpoints/", ""),
    Flag("--model-tag", None, str, "the run's folder below it", ""),
    Flag("--compile-mode", "compile.mode", str, "static, dynamic, none; auto: dynamic with --use-moe", always=True),
    Flag("--moe-capacity-factor", "moe.capacity_factor", float, "expert queue length, 0.0: exact routing", "0.0", True),
)

LAUNCHER_FLAGS = ("--rdzv-backend=loopback", "--rdzv-endpoint=127.0.0.1")
"""torchrun's own, for one machine: its ranks meet on 127.0.0.1 (scripts/rendezvous.py). With --standalone they would
meet on a port that is open to the network."""

_BY_NAME = {flag.name: flag for flag in FLAGS}
_BY_PATH = {flag.path: flag.name for flag in FLAGS if isinstance(flag, Flag) and flag.path}
_DEFAULTS = TrainConfig(moe=MoEConfig())


def parse_flags(argv: Sequence[str]) -> tuple[TrainConfig, RunOptions]:
    """The config and the run options that a command line means. Raises ConfigError, naming the flag."""
    texts, given = _split(argv)
    _check_switches(given)
    fields: dict[str, Any] = {}
    for name in given:
        switch = _BY_NAME[name]
        fields.update(switch.sets if isinstance(switch, Switch) else {})
    for name, text in texts.items():
        flag = _BY_NAME[name]
        if isinstance(flag, Flag) and flag.path:
            fields[flag.path] = flag.decode(text)
    has_experts = "--use-moe" in given
    if fields.get("compile.mode", "auto") == "auto":
        fields["compile.mode"] = "dynamic" if has_experts else "static"
    try:
        base = _DEFAULTS if has_experts else replace(_DEFAULTS, moe=None)
        return with_overrides(base, fields if has_experts else _without_experts(fields)), _options(texts)
    except ConfigError as error:
        raise ConfigError(in_flag_names(str(error))) from None


def to_argv(config: TrainConfig, options: RunOptions | None = None) -> list[str]:
    """The flags that `parse_flags` turns into this config and these options."""
    argv: list[str] = []
    for flag in FLAGS:
        if isinstance(flag, Switch):
            argv += [flag.name] if _is_on(flag, config) else []
        elif flag.path is None:
            argv += _words(flag, _option_value(flag, options or RunOptions()), always=False)
        elif config.moe is not None or not flag.path.startswith("moe."):
            argv += _words(flag, get_field(config, flag.path), always=flag.always)
    return argv


def help_text() -> str:
    """All flags with their defaults, one a line."""
    lines = [f"torchrun {' '.join(LAUNCHER_FLAGS)} --nproc_per_node=N -m scripts.base_train -- FLAGS", ""]
    for flag in FLAGS:
        default = "off" if isinstance(flag, Switch) else (flag.default or '""')
        lines.append(f"  {flag.name:<26} {default:<11} {flag.help}")
    return "\n".join(lines)


def _split(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Flags with their texts, and the switches that were given."""
    words = list(argv[1:] if argv[:1] == ["--"] else argv)
    texts: dict[str, str] = {}
    given: list[str] = []
    while words:
        name, equals, text = words.pop(0).partition("=")
        flag = _BY_NAME.get(name)
        if flag is None:
            raise ConfigError(_unknown(name))
        if isinstance(flag, Switch):
            if equals:
                raise ConfigError(f"{name} takes no value, got {text!r}")
            given.append(name)
        else:
            if not equals:
                if not words or words[0].startswith("--"):
                    raise ConfigError(f"{name} needs a value: {flag.help}")
                text = words.pop(0)
            before = texts.setdefault(name, text)
            if flag.decode(before) != flag.decode(text):
                raise ConfigError(f"{name} is given twice, as {shown(before)} and as {shown(text)}; give it once")
    return texts, given


def _unknown(name: str) -> str:
    if name == "--experts-backend":
        return f"{name} has no effect yet: experts run on torch's grouped products; leave it out"
    if not name.startswith("-"):
        return f"unexpected argument {name!r}; flags start with --"
    near = difflib.get_close_matches(name, list(_BY_NAME), n=1, cutoff=0.4)
    return f"unknown flag {name}" + (f"; did you mean {near[0]}?" if near else "; see --help")


def _check_switches(given: list[str]) -> None:
    for name in given:
        switch = _BY_NAME[name]
        assert isinstance(switch, Switch)
        if switch.needs and switch.needs not in given:
            raise ConfigError(f"{name} has no effect without {switch.needs}")
        for other in switch.excludes:
            if other in given:
                raise ConfigError(f"{name} and {other} exclude each other")


def _without_experts(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a model without experts; an expert's flag may be given as long as it asks for nothing."""
    for path, value in fields.items():
        if path.startswith("moe.") and value != _default_of(path):
            raise ConfigError(f"{_BY_PATH[path]} {value} has no effect without --use-moe")
    if fields.get("precision.experts") == "fp8":
        raise ConfigError("FP8 experts were asked for, but there are none without --use-moe")
    return {path: value for path, value in fields.items() if not path.startswith("moe.")}


def _options(texts: dict[str, str]) -> RunOptions:
    step_flag = _BY_NAME["--resume-from-step"]
    assert isinstance(step_flag, Flag)
    step = step_flag.decode(texts.get("--resume-from-step", "-1"))
    resume = texts.get("--resume") or None
    if resume not in (None, "latest"):
        raise ConfigError(f"--resume takes latest, got {resume!r}; for a step there is --resume-from-step")
    if resume and step:
        raise ConfigError(f"--resume latest and --resume-from-step {step} exclude each other")
    return RunOptions(
        checkpoint_root=texts.get("--checkpoint-root") or None,
        model_tag=texts.get("--model-tag") or None,
        resume="latest" if resume else step,
    )


def _option_value(flag: Flag, options: RunOptions) -> str | int | None:
    if flag.name == "--resume-from-step":
        return options.resume if isinstance(options.resume, int) else None
    if flag.name == "--resume":
        return "latest" if options.resume == "latest" else None
    return options.checkpoint_root if flag.name == "--checkpoint-root" else options.model_tag


def _words(flag: Flag, value: Any, *, always: bool) -> list[str]:
    text = flag.encode(value)
    if text == flag.default and not always:
        return []
    return [f"{flag.name}={text}"] if text.startswith("--") else [flag.name, text]


def _is_on(switch: Switch, config: TrainConfig) -> bool:
    if switch.name == "--use-moe":
        return config.moe is not None
    has_fp8_flag = config.precision.linears == "fp8"
    if (switch.needs and not has_fp8_flag) or ("--fp8" in switch.excludes and has_fp8_flag):
        return False
    return all(get_field(config, path) == value for path, value in switch.sets.items())


def _default_of(path: str | None) -> Any:
    return None if path is None else get_field(_DEFAULTS, path)


def in_flag_names(message: str) -> str:
    """A message about config fields, in the words of the command line."""
    return re.sub(r"\b[a-z]+\.[a-z_0-9]+", lambda match: _BY_PATH.get(match[0], match[0]), message)
