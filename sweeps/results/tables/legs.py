"""The columns of legs.parquet, one row per trial, in the order of the file; later versions only add columns.

What describes a run that can have had several attempts (workers, card, kernels, commit) is that of the attempt whose
window is measured; lists hold what every attempt had.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nanochat.config import digest, field_alternatives, field_paths, get_field, to_dict
from sweeps.records.clock import recorded_moment, wall_s
from sweeps.results.measures.conditions import NO_CHANGES, commit_of
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.measures.startup import between_legs_s
from sweeps.results.tables.column import NOT_FINITE, About, Kind
from sweeps.spec.metrics import METRICS, Metric


@dataclass(frozen=True)
class LegSource:
    """What a row is made from."""

    experiment: Snapshot
    trial: TrialSnapshot


@dataclass(frozen=True)
class LegColumn(About):
    """A column and its value for one trial."""

    of: Callable[[LegSource], Any]


def _metric_column(metric: Metric) -> LegColumn:
    return LegColumn(metric.name, "float64", metric.unit, metric.meaning, lambda s: s.trial.measures[metric.name])


def _fact(name: str, kind: Kind, unit: str, meaning: str) -> LegColumn:
    """What the trainer said at the start of the measured attempt."""
    return LegColumn(name, kind, unit, meaning, lambda s: s.trial.facts.get(name))


def _imported(name: str, kind: Kind, meaning: str, field: str | None = None) -> LegColumn:
    """What is known of a log that a trial was read from."""
    field = field or name.removeprefix("imported_")
    return LegColumn(name, kind, "", meaning, lambda s: getattr(s.trial.imported, field) if s.trial.imported else None)


def _run_here(trial: TrialSnapshot, value: Any) -> Any:
    """What only our own trainer knows of a run: its whole config with the seed. None for a run from a log."""
    return None if trial.imported is not None else value


def leg_columns() -> list[LegColumn]:
    """All columns whose names do not depend on the experiment, those of the config's fields last."""
    return [*LEG_COLUMNS, *map(parameter_column, field_paths())]


LEG_COLUMNS: list[LegColumn] = [
    LegColumn("leg", "text", "", "name of the leg", lambda s: s.trial.trial.leg.name),
    LegColumn("trial", "text", "", "name of the trial: leg and block", lambda s: s.trial.trial.name),
    LegColumn("block", "int32", "", "pass over all legs, from 1", lambda s: s.trial.trial.block),
    LegColumn("role", "text", "", "baseline, candidate, grid or control", lambda s: s.trial.trial.leg.role),
    LegColumn("status", "text", "", "state of the trial when exported", lambda s: s.trial.state),
    LegColumn("attempts", "int32", "attempts", "attempts started", lambda s: s.trial.num_attempts),
    LegColumn("steps_observed", "int32", "steps", "different steps stored", lambda s: s.trial.measures.steps_observed),
    LegColumn("last_step", "int32", "", "index of the last step, from 0", lambda s: s.trial.measures.last_step),
    *map(_metric_column, METRICS),
    LegColumn("window_steps", "int32", "steps", "length of the window", lambda s: s.experiment.plan.window_steps),
    LegColumn(
        "counted_steps",
        "int32",
        "steps",
        "steps whose time counts, of all",
        lambda s: s.trial.measures.num_counted_steps,
    ),
    LegColumn(
        "skipped_steps",
        "int32",
        "steps",
        "steps that changed nothing: a gradient was not finite",
        lambda s: s.trial.measures.num_skipped_steps,
    ),
    LegColumn("wall_time_min", "float64", "min", "time in all ended attempts", lambda s: _wall_time_min(s.trial)),
    LegColumn(
        "between_legs_s",
        "float64",
        "s",
        "from the last step of the leg before to the start of the first step; null where it did not follow at once",
        lambda s: between_legs_s(s.experiment, s.trial),
    ),
    LegColumn("started_utc", "utc", "UTC", "start of the first attempt", lambda s: _started(s.trial)),
    LegColumn("ended_utc", "utc", "UTC", "end of the last attempt", lambda s: _ended(s.trial)),
    LegColumn("error_type", "text", "", "what ended the last attempt, if an error", lambda s: _error(s.trial, "type")),
    LegColumn("error_message", "text", "", "its message", lambda s: _error(s.trial, "message")),
    LegColumn("diverged", "text", "", "why the trial has learnt nothing, if so", lambda s: s.trial.diverged),
    LegColumn("num_workers", "int32", "workers", "ranks of the measured attempt", lambda s: _num_workers(s.trial)),
    LegColumn("host", "text", "", "host of the measured attempt", lambda s: _measured(s.trial, "ran_on")),
    _fact("device", "text", "", "cpu or cuda"),
    _fact("device_name", "text", "", "name of the processor or card"),
    _fact("peak_bf16_flops", "float64", "FLOP/s", "the card's dense bf16 peak"),
    _fact("flops_per_token", "float64", "FLOP/token", "model's FLOPs, forward and backward"),
    _fact("num_params", "int64", "parameters", "all parameters"),
    _fact("num_active_params", "int64", "parameters", "parameters a token passes through"),
    _fact("total_batch_tokens", "int64", "tokens", "tokens per optimizer step"),
    _fact("grad_accum_steps", "int32", "micro-steps", "micro-steps per step"),
    _fact("text_digest", "text", "", "of the shards' contents in their order, or of the novels in the package"),
    _fact("tokenizer_digest", "text", "", "of the tokenizer's files"),
    _fact("num_text_shards", "int32", "shards", "shards of the text, the one for validation included"),
    _fact("text_tokens", "int64", "tokens", "tokens of the training text; estimated for a long one"),
    _fact("compile_cache", "text", "", "cold, warm, mixed or none"),
    LegColumn(
        "backends_json", "text", "", "kernel of each role", lambda s: _json_or_none(s.trial.facts.get("backends"))
    ),
    LegColumn(
        "attempt_num_workers",
        "int32s",
        "workers",
        "ranks of each attempt",
        lambda s: tuple(a.num_workers for a in s.trial.attempts),
    ),
    LegColumn(
        "attempt_compile_caches",
        "texts",
        "",
        "compile_cache of each attempt",
        lambda s: tuple((a.facts or {}).get("compile_cache") for a in s.trial.attempts),
    ),
    LegColumn(
        "attempt_backends_json",
        "texts",
        "",
        "backends_json of each attempt",
        lambda s: tuple(_json_or_none((a.facts or {}).get("backends")) for a in s.trial.attempts),
    ),
    LegColumn(
        "compile_fallback",
        "text",
        "",
        "why an attempt ran uncompiled, if compiling failed",
        lambda s: s.trial.fallback_reason,
    ),
    LegColumn("seed", "int64", "", "seed of the run", lambda s: _run_here(s.trial, s.trial.trial.config.run.seed)),
    LegColumn("leg_id", "text", "", "leg's name and difference from the base", lambda s: s.trial.trial.leg.id),
    LegColumn(
        "config_sha256",
        "text",
        "",
        "digest of the whole config",
        lambda s: _run_here(s.trial, digest(s.trial.trial.config)),
    ),
    LegColumn(
        "config_json",
        "text",
        "",
        "the whole config",
        lambda s: _run_here(s.trial, _json_or_none(to_dict(s.trial.trial.config))),
    ),
    _imported("imported_file", "text", "the log that the trial was read from; the next four are null for others"),
    _imported("imported_sha256", "text", "its digest", "sha256"),
    LegColumn(
        "imported_lines",
        "text",
        "",
        "first and last line of the run in it",
        lambda s: f"{s.trial.imported.first_line}-{s.trial.imported.last_line}" if s.trial.imported else None,
    ),
    LegColumn(
        "imported_command_json",
        "text",
        "",
        "the trainer's arguments, if they are known",
        lambda s: _json_or_none(s.trial.imported.command) if s.trial.imported else None,
    ),
    _imported("why_no_config", "text", "why nothing is known of its config, if so"),
    LegColumn("experiment", "text", "", "id of the experiment", lambda s: s.experiment.manifest.id),
    LegColumn("sweep", "text", "", "name of the sweep", lambda s: s.experiment.manifest.sweep),
    LegColumn(
        "origin",
        "text",
        "",
        "id of the experiment that ran the leg, where it was taken over",
        lambda s: s.trial.origin.experiment if s.trial.origin else None,
    ),
    LegColumn("git_commit", "text", "", "commit of the measured attempt", lambda s: commit_of(s.experiment, s.trial)),
    LegColumn(
        "attempt_git_commits",
        "texts",
        "",
        "commit of each attempt",
        lambda s: tuple(a.git_commit for a in s.trial.attempts),
    ),
    LegColumn(
        "git_diff_sha256",
        "text",
        "",
        "digest of the measured attempt's uncommitted changes",
        lambda s: _measured(s.trial, "git_diff_digest"),
    ),
    LegColumn(
        "versions_json",
        "text",
        "",
        "python and packages of the measured attempt",
        lambda s: _json_or_none(_measured(s.trial, "versions")),
    ),
    LegColumn("run_id", "text", "", "experiment and trial as one text", lambda s: _run_id(s)),
    LegColumn(
        "git_dirty",
        "bool",
        "",
        "whether the measured attempt ran with uncommitted changes; null if not known",
        lambda s: _is_dirty(s.experiment, s.trial),
    ),
    LegColumn(
        "attempt_git_diff_sha256s",
        "texts",
        "",
        "git_diff_sha256 of each attempt",
        lambda s: tuple(a.git_diff_digest for a in s.trial.attempts),
    ),
    LegColumn("argv_json", "text", "", "command line of the launch", lambda s: json.dumps(s.experiment.manifest.argv)),
    LegColumn(
        NOT_FINITE,
        "texts",
        "",
        "columns that are null here because their number is not finite, or too large",
        lambda _: (),
    ),
]


def section_axes(snapshot: Snapshot) -> list[str]:
    """The whole sections that legs replace."""
    return sorted({path for leg in snapshot.plan.legs for path in leg.overrides if "." not in path})


def section_column(section: str) -> LegColumn:
    """The column of a section that legs replace whole: moe -> p_moe, as JSON."""
    return LegColumn(
        f"p_{section}",
        "text",
        "",
        f"config section {section} as JSON; null: the leg has none",
        lambda s: _json_or_none(to_dict(s.trial.trial.config)[section]) if s.trial.has_known_config else None,
    )


def parameter_column(path: str) -> LegColumn:
    """The typed column of a config field: moe.capacity_factor -> p_moe_capacity_factor."""
    types = {a if isinstance(a, type) else type(a) for a in field_alternatives(path)} - {type(None)}
    kinds: dict[type, Kind] = {bool: "bool", int: "int64", float: "float64"}
    kind = kinds.get(types.pop(), "text") if len(types) == 1 else "text"
    name = f"p_{path.replace('.', '_')}"
    return LegColumn(
        name,
        kind,
        "",
        f"config field {path}",
        lambda s: _config_value(s.trial, path),
    )


def _config_value(trial: TrialSnapshot, path: str) -> Any:
    """None where a log does not say its config, or says none of a run's own name and seed."""
    if not trial.has_known_config:
        return None
    value = get_field(trial.trial.config, path)
    return _run_here(trial, value) if path.startswith("run.") else value


def _started(trial: TrialSnapshot) -> Any:
    if trial.imported is not None:
        return recorded_moment(trial.imported.started_utc)
    return recorded_moment(trial.attempts[0].started_utc) if trial.attempts else None


def _ended(trial: TrialSnapshot) -> Any:
    if trial.imported is not None:
        return recorded_moment(trial.imported.ended_utc)
    return recorded_moment(trial.attempts[-1].ended_utc) if trial.attempts else None


def _wall_time_min(trial: TrialSnapshot) -> float | None:
    ended = [wall_s(attempt) for attempt in trial.attempts if attempt.ended_utc is not None]
    known = [seconds for seconds in ended if seconds is not None]
    return sum(known) / 60 if ended and len(known) == len(ended) else None


def _num_workers(trial: TrialSnapshot) -> int | None:
    return trial.facts.get("world_size") if trial.imported is not None else _measured(trial, "num_workers")


def _error(trial: TrialSnapshot, part: str) -> str | None:
    if trial.imported is not None:
        return trial.imported.error if part == "message" else None
    error = trial.attempts[-1].error if trial.attempts else None
    return getattr(error, part) if error else None


def _run_id(source: LegSource) -> str:
    return f"{source.experiment.manifest.id}/{source.trial.trial.name}"


def _is_dirty(snapshot: Snapshot, trial: TrialSnapshot) -> bool | None:
    """Older attempts did not store it: then it is the launch's, if it is known to have been a checkout."""
    attempt, manifest = trial.measured_attempt, snapshot.manifest
    if attempt is None:
        return None
    if attempt.git_diff_digest is not None:
        return attempt.git_diff_digest != NO_CHANGES
    is_known = trial.origin is None and manifest.git_commit is not None
    return bool(manifest.git_diff) if is_known else None


def _measured(trial: TrialSnapshot, name: str) -> Any:
    """A field of the attempt that is measured."""
    return getattr(trial.measured_attempt, name) if trial.measured_attempt else None


def _json_or_none(value: Any) -> str | None:
    return None if value is None else json.dumps(value, sort_keys=True)
