"""What one line of a torchrun log says, in any of the shapes that nanochat and its forks have printed.

A step line is split at ` | ` and read by its names, so fields may be missing, new, or in another order. A number counts
only if it is whole: a value that a splice, a torn end or foreign output may have cut is unknown, never shortened. What
is not understood is left to the caller to count.
"""

import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
_STEP = re.compile(r"step (\d{1,9})(?:/(\d{1,9}))? \(")
_EVAL = re.compile(r"Step (\d{1,9}) \| (Validation bpb|CORE metric): (\S+)")
_END = re.compile(r"^(Peak memory usage|Total training time|Minimum validation bpb): (\S+)\s*$")
_FACT = re.compile(
    r"^(GPU|Vocab size|Checkpoint dir|Estimated FLOPs per token|Tokens / micro-batch / rank|Tokens / micro-batch|argv"
    r"|[Gg]it commit|[Ss]eed): (.+)$"
)
_BATCH = re.compile(r"^(Total batch size) (.+)$")
_COMMAND = re.compile(r"^[+$] ?((?:\w+=\S+ +)*\S*(?:torchrun|python[\d.]*) .+)$")  # as `set -x` or a person shows one
_PARAMETERS = re.compile(
    r"^(wte|value_embeds|lm_head|transformer_matrices|scalars|total|moe_inactive|active_total) *: ([\d,]+)$"
)
_COMPILE = re.compile(r"\[compile_mode=(\w+)\]")
_ERROR = re.compile(r"^(?:\S+\]:)?\s*((?:[\w.]*(?:Error|Exception|Interrupt)\b|error:|RuntimeError).*)$")
_RECORD = re.compile(r"^(argv|config|params|eval|core|step|bench|summary|model|cm)\s+(\S+=.*)$")

_WHOLE = re.compile(r"\d{1,15}")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})*|\d+")
_DECIMAL = re.compile(r"-?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?|-?(?:nan|inf)", re.IGNORECASE)

# The name in the line, the name of the value, what follows its digits.
_FIELDS: dict[str, tuple[str, str]] = {
    "loss": ("loss", ""),
    "bal": ("bal", ""),
    "lrm": ("lr_mult", ""),
    "dt": ("dt_ms", "ms"),
    "tok/sec": ("tok_per_sec", ""),
    "mfu": ("mfu_printed_pct", ""),
    "bf16_mfu": ("bf16_mfu_printed_pct", ""),
    "epoch": ("epoch", ""),
    "total time": ("total_time_min", "m"),
    "grad norm": ("grad_norm", ""),
}
# Digits after the point with which the last field of a line is whole if nothing else tells that it is not cut.
_DECIMALS = {"loss": 6, "bal": 4, "lr_mult": 2, "mfu_printed_pct": 2, "bf16_mfu_printed_pct": 2, "epoch": 0}
_RECORD_FIELDS = {
    "loss": "loss",
    "train_loss": "loss",
    "bal": "bal",
    "lrm": "lr_mult",
    "dt": "dt_ms",
    "dt_ms": "dt_ms",
    "tok_per_sec": "tok_per_sec",
    "tok/sec": "tok_per_sec",
    "mfu": "bf16_mfu_printed_pct",
    "bf16_mfu": "bf16_mfu_printed_pct",
    "epoch": "epoch",
    "grad_norm": "grad_norm",
}


@dataclass(frozen=True, kw_only=True)
class StepLine:
    """One step; a value that the line lacks, or that may be cut, is not in `values`."""

    step: int
    num_steps: int | None
    values: dict[str, float]
    unread: tuple[str, ...] = ()  # fields that have a known name and no whole number


@dataclass(frozen=True, kw_only=True)
class EvalLine:
    """An evaluation after some steps."""

    step: int
    metric: str  # val_bpb or core
    value: float


@dataclass(frozen=True, kw_only=True)
class EndLine:
    """One of the lines that a run prints when it is over."""

    name: str  # peak_mib, total_time_min or min_val_bpb
    value: float


@dataclass(frozen=True, kw_only=True)
class FactLine:
    """Something that a run says of itself before its first step."""

    name: str
    value: str


@dataclass(frozen=True, kw_only=True)
class ErrorLine:
    """What looks like the error that ended a run."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Unread:
    """A line, or a part of one, that looks like a known one and cannot be read."""

    why: str
    text: str = field(repr=False)


Found = StepLine | EvalLine | EndLine | FactLine | ErrorLine | Unread
_END_NAMES = {
    "Peak memory usage": ("peak_mib", "MiB"),
    "Total training time": ("total_time_min", "m"),
    "Minimum validation bpb": ("min_val_bpb", ""),
}


def plain_line(line: str) -> str:
    """The line without colours, backticks around it and what a carriage return has overwritten."""
    shown = _ANSI.sub("", line).rstrip("\r\n").rpartition("\r")[2]
    return shown.replace("`", "").strip()


def read_line(line: str, *, is_torn: bool = False) -> Iterator[Found]:
    """What a line holds: usually one thing, of spliced lines several, of sample text and chatter none.

    `is_torn`: the line has no end, so its last number may be cut.
    """
    text = plain_line(line)
    marks = list(_STEP.finditer(text))
    if marks:
        for mark, following in zip(marks, [*marks[1:], None], strict=True):
            end = len(text) if following is None else following.start()
            yield _step(mark, text[mark.end() : end], may_be_cut=following is not None or is_torn)
        return
    if record := _RECORD.match(text):
        yield from _from_record(record[1], record[2], is_torn)
        return
    if found := _EVAL.search(text):
        value = _number(found[3], "")
        name = {"Validation bpb": "val_bpb", "CORE metric": "core"}[found[2]]
        is_cut = is_torn and found.end() == len(text)
        yield (
            Unread(why="evaluation without a number", text=text)
            if value is None or is_cut
            else EvalLine(step=int(found[1]), metric=name, value=value)
        )
        return
    yield from _other(text, is_torn)


def _other(text: str, is_torn: bool) -> Iterator[Found]:
    if found := _END.match(text):
        name, unit = _END_NAMES[found[1]]
        value = _number(found[2], unit)
        is_cut = is_torn and not (unit and found[2].endswith(unit))
        yield (
            Unread(why="last lines of a run without a number", text=text)
            if value is None or is_cut
            else EndLine(name=name, value=value)
        )
    elif (found := _FACT.match(text)) or (found := _BATCH.match(text)):
        if not is_torn:
            yield FactLine(name=found[1], value=found[2].strip())
    elif found := _COMMAND.match(text):
        if not is_torn:
            yield FactLine(name="command", value=found[1])
    elif found := _PARAMETERS.match(text):
        if not is_torn and _THOUSANDS.fullmatch(found[2]):
            yield FactLine(name=f"parameters.{found[1]}", value=found[2].replace(",", ""))
    elif found := _COMPILE.search(text):
        yield FactLine(name="compile_mode", value=found[1])
    elif found := _ERROR.match(text):
        yield ErrorLine(text=found[1][:500])


def _step(mark: re.Match[str], rest: str, *, may_be_cut: bool) -> StepLine | Unread:
    """The fields after `step 12/280 (`; of a part that may be cut the last one is not believed."""
    parts = [part.strip() for part in rest.split(" | ")][1:]  # the first is the percentage
    if may_be_cut:
        parts = parts[:-1]
    values, unread = dict[str, float](), list[str]()
    for index, part in enumerate(parts):
        name, colon, text = part.partition(":")
        known = _FIELDS.get(name.strip())
        if not colon or known is None:
            continue
        key, unit = known
        text = text.strip().split(" ")[0] if key == "epoch" else text.strip()  # `epoch: 1 pq: 0 rg: 8`
        value = _number(text, unit)
        if value is None or (index == len(parts) - 1 and not _is_whole(key, unit, text)):
            unread.append(name.strip())
        else:
            values.setdefault(key, value)
    step, num_steps = int(mark[1]), int(mark[2]) if mark[2] else None
    if "loss" not in values:
        return Unread(why="step line that is cut before its loss", text=mark[0] + rest)
    return StepLine(step=step, num_steps=num_steps, values=values, unread=tuple(unread))


def _is_whole(key: str, unit: str, text: str) -> bool:
    """True if the last field of a line cannot have lost its end: its unit is there, or all of its digits."""
    if unit or text.endswith("%") or not text[-1:].isdigit():
        return True
    return len(text.partition(".")[2]) == _DECIMALS.get(key, -1)


def _from_record(tag: str, rest: str, is_torn: bool) -> Iterator[Found]:
    """A line of `tag key=value ...`, quoted as a shell would."""
    try:
        words = shlex.split(rest)
    except ValueError:
        yield Unread(why=f"{tag} record with an open quote", text=rest)
        return
    pairs = [word.partition("=") for word in (words[:-1] if is_torn else words)]
    values = {name: value for name, equals, value in pairs if equals}
    if tag == "step":
        yield _step_of_record(values, rest)
    elif tag in ("eval", "core"):
        yield from _eval_of_record(tag, values, rest)
    elif tag == "summary":
        ends = {"peak_memory_mib": "peak_mib", "peak_mib": "peak_mib", "total_time_min": "total_time_min"}
        ends |= {"min_val_bpb": "min_val_bpb"}
        for name, key in ends.items():
            value = _number(values.get(name, ""), "")
            if value is not None:
                yield EndLine(name=key, value=value)
    else:
        yield from (FactLine(name=f"{tag}.{name}", value=value) for name, value in values.items())


def _step_of_record(values: dict[str, str], rest: str) -> StepLine | Unread:
    step, num_steps = values.get("step", ""), values.get("num_steps", values.get("of", ""))
    read = {key: _number(values[name], "") for name, key in _RECORD_FIELDS.items() if name in values}
    known = {key: value for key, value in read.items() if value is not None}
    if not _WHOLE.fullmatch(step) or "loss" not in known:
        return Unread(why="step record without step or loss", text=rest)
    return StepLine(
        step=int(step),
        num_steps=int(num_steps) if _WHOLE.fullmatch(num_steps) else None,
        values=known,
        unread=tuple(key for key, value in read.items() if value is None),
    )


def _eval_of_record(tag: str, values: dict[str, str], rest: str) -> Iterator[Found]:
    metric = "val_bpb" if tag == "eval" else "core"
    value = next((v for name in ("val_bpb", "bpb", "core", "core_metric") if (v := values.get(name))), "")
    number = _number(value, "")
    if number is None or not _WHOLE.fullmatch(values.get("step", "")):
        yield Unread(why=f"{tag} record without step or value", text=rest)
    else:
        yield EvalLine(step=int(values["step"]), metric=metric, value=number)


def _number(text: str, unit: str) -> float | None:
    """A whole number with exactly this unit after it (or a percent sign); None for anything else."""
    if unit:
        if not text.endswith(unit):
            return None
        text = text[: -len(unit)]
    text = text.removesuffix("%").strip()
    if "," in text:
        return float(text.replace(",", "")) if _THOUSANDS.fullmatch(text) and len(text) < 24 else None
    if not _DECIMAL.fullmatch(text) or len(text) > 40:
        return None
    value = float(text)
    is_literal = text.lower().lstrip("-") in ("nan", "inf")
    return value if is_literal or math.isfinite(value) else None
