"""What the lines before the first step say of a run, as the facts that our own trainer tells; nothing is guessed."""

import re
from typing import Any

from nanochat.cards import peak_bf16_flops
from sweeps.importer.commands import Command
from sweeps.importer.logs import LoggedRun

_COUNT = r"(\d{1,3}(?:,\d{3})*|\d{1,15})"
_BATCH = re.compile(rf"{_COUNT} => gradient accumulation steps: {_COUNT}")
_MICRO_OF_RANK = re.compile(rf"{_COUNT} x {_COUNT} = {_COUNT}")


def facts_of(run: LoggedRun, command: Command | None) -> dict[str, Any]:
    """Facts under the names of StartFacts; what no line says is missing."""
    said = run.facts
    total, accumulation = _numbers(_BATCH, said.get("Total batch size", ""), 2)
    of_rank = _numbers(_MICRO_OF_RANK, said.get("Tokens / micro-batch / rank", ""), 3)[-1]
    of_all = _count(said.get("Tokens / micro-batch", ""))
    card = said.get("GPU", "").partition(" | ")[0].strip() or None
    facts: dict[str, Any] = {
        "world_size": _world_size(of_rank, of_all, total, accumulation) or (command.num_processes if command else None),
        "device": "cuda" if card else None,
        "device_name": card,
        "peak_bf16_flops": None if card is None else peak_bf16_flops(card),
        "num_steps": run.num_steps,
        "total_batch_tokens": total,
        "grad_accum_steps": accumulation,
        "flops_per_token": _flops(said.get("Estimated FLOPs per token", "")),
        "num_params": _count(said.get("parameters.total", "")),
        "num_active_params": _count(said.get("parameters.active_total", "")),
        "compile_mode": said.get("compile_mode"),
    }
    return {name: value for name, value in facts.items() if value is not None and _fits(value)}


def logged_mfu_pct(tok_per_sec: float | None, facts: dict[str, Any]) -> float | None:
    """Model FLOPs over the dense bf16 peak of the named card; None if any part of that is not known."""
    flops, peak, world_size = (facts.get(name) for name in ("flops_per_token", "peak_bf16_flops", "world_size"))
    if tok_per_sec is None or not (flops and peak and world_size):
        return None
    return 100 * flops * tok_per_sec / (peak * world_size)


def _world_size(of_rank: int | None, of_all: int | None, total: int | None, accumulation: int | None) -> int | None:
    """Ranks: tokens of a micro-step of all of them over those of one."""
    if of_all is None and total is not None and accumulation:
        of_all = total // accumulation if total % accumulation == 0 else None
    return of_all // of_rank if of_rank and of_all and of_all % of_rank == 0 else None


def _numbers(pattern: re.Pattern[str], text: str, number: int) -> list[int | None]:
    found = pattern.fullmatch(text)
    return [None] * number if found is None else [_count(group) for group in found.groups()]


def _count(text: str) -> int | None:
    return int(text.replace(",", "")) if re.fullmatch(_COUNT, text) else None


def _flops(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d+(?:\.\d+)?(?:e[+-]?\d{1,2})?", text) else None


def _fits(value: Any) -> bool:
    return not isinstance(value, int) or isinstance(value, bool) or value <= 2**62
