"""Names of legs: they become folders, table rows and model tags, so they are readable and use few characters."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from nanochat.config import TrainConfig
from sweeps.spec.errors import SweepError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_name(what: str, name: str) -> str:
    """The name itself, if a file system and a URL can both hold it."""
    if not _NAME.fullmatch(name):
        raise SweepError(f"{what} {name!r} cannot name a folder: use up to 100 letters, digits, '.', '_' or '-'")
    return name


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint to append to an error: the known name that looks most like `name`, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"; did you mean {close[0]}?" if close else ""


def slug(overrides: Mapping[str, Any]) -> str:
    """The default name of a leg: `mode-static_capacity_factor-1.25` from what its axes set."""
    parts = [f"{path.rsplit('.', 1)[-1]}-{value}" for path, value in overrides.items()]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(parts)).lower() or "base"


def moe_leg_name(config: TrainConfig) -> str:
    """`moe_fp8_experts_static_cap1p25`: the precision by role, the compile mode, the capacity factor.

    `fp8_experts` and `bf16_experts` are the whole model in that precision; FP8 in some roles only names these, as in
    `fp8_head`. No compilation reads `nocompile`, exact routing `cap0p0`; a model without experts is
    `dense_<precision>_<mode>`.
    """
    mode = "nocompile" if config.compile.mode == "none" else config.compile.mode
    if config.moe is None:
        return f"dense_{config.precision.linears}_{mode}"
    capacity = str(float(config.moe.capacity_factor or 0.0)).replace(".", "p")
    linears, experts = config.precision.linears, config.precision.experts
    if linears == experts:
        roles = f"{experts}_experts"
    else:
        roles = "fp8_linears" if linears == "fp8" else linears
        if experts == "fp8":
            roles = "fp8_experts_only" if linears == "bf16" else f"{roles}_experts"
    return f"moe_{roles}_{mode}_cap{capacity}"
