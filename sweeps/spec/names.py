"""Names of legs: they become folders, table rows and model tags, so they are readable and use few characters."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from nanochat.config import TrainConfig, digest
from nanochat.values import shown
from sweeps.spec.errors import SweepError

MAX_NAME = 100  # characters
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME - 1}}}")


def check_name(what: str, name: str) -> str:
    """The name itself, if a file system and a URL can both hold it."""
    if not _NAME.fullmatch(name):
        raise SweepError(f"{what} {name!r} cannot name a folder: use up to {MAX_NAME} letters, digits, '.', '_' or '-'")
    return name


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint to append to an error: the known name that looks most like `name`, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"; did you mean {close[0]}?" if close else ""


def slug(overrides: Mapping[str, Any]) -> str:
    """The default name of a leg: `mode-static_capacity_factor-1.25` from what its axes set.

    A whole section reads `moe-none`, or names what differs from its defaults: `moe-num_experts-16-top_k-1`. A name that
    is too long for a folder ends in 8 hex digits of what it leaves out.
    """
    parts = [f"{path.rsplit('.', 1)[-1]}-{_text(value)}" for path, value in overrides.items()]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(parts)).lower() or "base"
    return name if len(name) <= MAX_NAME else with_digest(name, dict(overrides))


def with_digest(name: str, value: Any) -> str:
    """A name that ends in 8 hex digits of the digest of a plain value, cut to the length that a name can have."""
    return f"{name[: MAX_NAME - 9]}-{digest(value)[:8]}"


def _text(value: Any) -> str:
    """A value in a name. Exponents keep their sign, which is left out where it is plus: 1e18 and 1e-18."""
    if isinstance(value, Mapping):
        fields = cast(Mapping[str, Any], value)
        return "-".join(f"{field}-{_text(inner)}" for field, inner in fields.items()) or "default"
    return value if isinstance(value, str) else shown(value).replace("e+", "e")


def moe_leg_name(config: TrainConfig) -> str:
    """`moe_fp8_experts_static_cap1p25`: the precision by role, the compile mode, the capacity factor.

    `fp8_experts` and `bf16_experts` are the whole model in that precision; FP8 in some roles only names these, as in
    `fp8_head`. No compilation reads `nocompile`, exact routing `cap0p0`; a model without experts is
    `dense_<precision>_<mode>`.
    """
    mode = "nocompile" if config.compile.mode == "none" else config.compile.mode
    if config.moe is None:
        return f"dense_{config.precision.linears}_{mode}"
    capacity = _text(float(config.moe.capacity_factor or 0.0)).replace(".", "p")
    linears, experts = config.precision.linears, config.precision.experts
    if linears == experts:
        roles = f"{experts}_experts"
    else:
        roles = "fp8_linears" if linears == "fp8" else linears
        if experts == "fp8":
            roles = "fp8_experts_only" if linears == "bf16" else f"{roles}_experts"
    return f"moe_{roles}_{mode}_cap{capacity}"
