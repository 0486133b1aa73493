"""The table of config fields in docs/sweeps.md, made from the config and the flags."""

from nanochat.config import MoEConfig, TrainConfig, field_paths, get_field
from nanochat.flags import FLAGS, Flag, Switch

_DEFAULTS = TrainConfig(moe=MoEConfig())
_WITHOUT_A_HELP = {
    "precision.linears": "bf16, or FP8 by role: fp8, fp8_head, fp8_attention, fp8_qkv, fp8_out",
    "precision.experts": "bf16 or fp8",
    "run.deterministic": "bit-equal repeats on a GPU, slower",
    "run.final_checkpoint": "a checkpoint at the end; sweeps switch it off",
}


def field_table() -> str:
    """Markdown: field, default, flag, meaning."""
    by_path = {flag.path: flag for flag in FLAGS if isinstance(flag, Flag) and flag.path}
    lines = ["| field | default | flag | meaning |", "| :-- | :-- | :-- | :-- |"]
    for path in field_paths():
        flag = by_path.get(path)
        switches = [flag.name for flag in FLAGS if isinstance(flag, Switch) and path in flag.sets]
        names = [flag.name] if flag is not None else switches
        meaning = flag.help if flag is not None else _WITHOUT_A_HELP[path]
        shown = ", ".join(f"`{name}`" for name in names)
        lines.append(f"| `{path}` | `{get_field(_DEFAULTS, path)}` | {shown} | {meaning} |")
    return "\n".join(lines)
