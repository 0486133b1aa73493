"""Logs as other trainers print them, made up here."""

from pathlib import Path

START = (
    "GPU: NVIDIA H800 | Peak FLOPS (BF16): 7.56e+14",
    "Vocab size: 32,768",
    "torch.compile(dynamic=False) [compile_mode=static]",
    "total                   : 1,000",
    "active_total            : 700",
    "Estimated FLOPs per token: 7.318380e+08",
    "Tokens / micro-batch / rank: 16 x 1024 = 16,384",
    "Tokens / micro-batch: 131,072",
    "Total batch size 524,288 => gradient accumulation steps: 4",
)
COMMAND = (
    "torchrun --standalone --nproc_per_node=8 -m scripts.base_train -- --run dummy --use-moe --n-experts 8 "
    "--expert-topk 2 --moe-freq 1 --expert-hidden-mult 2 --balance-loss-coeff 0.01 --depth 12 --aspect-ratio 64 "
    "--head-dim 64 --max-seq-len 1024 --device-batch-size 16 --num-iterations {steps} --eval-every -1 "
    "--core-metric-every -1 --sample-every -1 --save-every {steps} --fp8 --fp8-include-moe-experts "
    "--compile-mode static --moe-capacity-factor {capacity}"
)


def step_line(step: int, num_steps: int, *, dt_ms: float, loss: float, minutes: float) -> str:
    """One step in the shape of February 2026."""
    return (
        f"step {step:05d}/{num_steps:05d} ({100 * step / num_steps:.2f}%) | loss: {loss:.6f} | bal: 24.0312 | "
        f"lrm: 1.00 | dt: {dt_ms:.2f}ms | tok/sec: {524_288_000 / dt_ms:,.0f} | bf16_mfu: {6500 / dt_ms:.2f} | "
        f"epoch: 1 | total time: {minutes:.2f}m"
    )


def log_lines(
    num_steps: int = 120, dt_ms: float = 1000.0, *, ends: bool = True, num_printed: int | None = None
) -> list[str]:
    """A whole run; without `ends`, or with fewer steps printed, one that was cut off."""
    steps = range(num_steps if num_printed is None else num_printed)
    lines = [
        step_line(
            step, num_steps, dt_ms=dt_ms + step % 7, loss=10.0 - step / 50, minutes=max(0, step - 10) * dt_ms / 60_000
        )
        for step in steps
    ]
    end = ["Peak memory usage: 22790.06MiB", "Total training time: 1.85m"] if ends else []
    return [*START, *lines, *end]


def write_log(folder: Path, name: str, lines: list[str], capacity: str | None = None, num_steps: int = 120) -> Path:
    """A log in a folder; with a capacity also its command."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.log").write_text("\n".join(lines) + "\n")
    if capacity is not None:
        words = COMMAND.format(steps=num_steps, capacity=capacity).split()
        (folder / f"{name}.cmd.txt").write_text(" ".join(words[:5]) + " \\\n" + " \\\n".join(words[5:]) + " \\\n")
    return folder
