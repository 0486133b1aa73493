"""What pairs of runs say about FP8: loss gaps with their bounds, gains in speed, and the lines that hold the runs."""

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

CONTROL = "bf16"
MAX_MEAN_GAP_PCT, MAX_UPPER_GAP_PCT = 0.15, 0.25


@dataclass(frozen=True, kw_only=True)
class Result:
    """One finished run; a line of the output file."""

    variant: str
    seed: int
    config_sha256: str
    device: str
    torch: str
    commit: str | None
    num_steps: int
    epoch: int  # that the last batch came from
    skipped_steps: int
    val_bpb: float
    train_loss: float  # mean over the last tenth of the steps
    tok_per_sec: float  # whole optimizer steps; median over the steps after warm-up, as the next
    micro_tok_per_sec: float  # forward and backward alone: the optimizer's part is smaller in a real batch
    wall_s: float


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A role over the control, over the seeds that both have run."""

    role: str
    num_pairs: int
    mean_pct: float
    sd_pct: float | None  # None with one pair, as the next
    upper_pct: float | None  # one-sided 95 % bound
    speedup: float  # geometric means over pairs
    micro_speedup: float

    @property
    def holds(self) -> bool | None:
        """Whether both bounds are kept; None with one pair."""
        if self.upper_pct is None:
            return None
        return self.mean_pct <= MAX_MEAN_GAP_PCT and self.upper_pct <= MAX_UPPER_GAP_PCT


def t_quantile_95(df: int) -> float:
    """The number that Student's t with `df` degrees of freedom exceeds with a probability of 5 %."""
    norm = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)

    def mass_from_zero(x: float, num_pieces: int = 2000) -> float:  # by Simpson's rule
        weights = (1 if i in (0, num_pieces) else 4 if i % 2 else 2 for i in range(num_pieces + 1))
        values = ((1 + (x * i / num_pieces) ** 2 / df) ** (-(df + 1) / 2) for i in range(num_pieces + 1))
        return norm * x / num_pieces / 3 * math.fsum(w * v for w, v in zip(weights, values, strict=True))

    low, high = 0.0, 7.0  # 6.31 is the largest, of one degree of freedom
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if mass_from_zero(middle) < 0.45 else (low, middle)
    return high


def gap(role: str, results: Iterable[Result]) -> Gap | None:
    """The role's gap; None without a pair."""
    by_run = {(r.variant, r.seed): r for r in results}
    seeds = sorted(seed for variant, seed in by_run if variant == role and (CONTROL, seed) in by_run)
    pairs = [(by_run[role, seed], by_run[CONTROL, seed]) for seed in seeds]
    if not pairs:
        return None
    gaps_pct = [100 * (fp8.val_bpb / bf16.val_bpb - 1) for fp8, bf16 in pairs]
    sd = statistics.stdev(gaps_pct) if len(pairs) > 1 else None
    mean = statistics.fmean(gaps_pct)
    return Gap(
        role=role,
        num_pairs=len(pairs),
        mean_pct=mean,
        sd_pct=sd,
        upper_pct=None if sd is None else mean + t_quantile_95(len(pairs) - 1) * sd / math.sqrt(len(pairs)),
        speedup=statistics.geometric_mean([fp8.tok_per_sec / bf16.tok_per_sec for fp8, bf16 in pairs]),
        micro_speedup=statistics.geometric_mean([fp8.micro_tok_per_sec / b.micro_tok_per_sec for fp8, b in pairs]),
    )


def table(results: Sequence[Result], roles: Sequence[str]) -> list[str]:
    """The control, then a line per role that has a pair, then the bounds."""
    row = "{:<8} {:>5}  {:>9}  {:>7}  {:>11}  {:>9}  {:>13}  {}".format
    lines = [row("variant", "pairs", "gap %", "sd", "upper 95 %", "tok/s", "fwd+bwd tok/s", "bounds")]
    control = [r for r in results if r.variant == CONTROL]
    if control:
        bpb = f"{statistics.fmean(r.val_bpb for r in control):.5f} bits per byte"
        rate = statistics.median(r.tok_per_sec for r in control)
        micro = statistics.median(r.micro_tok_per_sec for r in control)
        lines.append(row(CONTROL, len(control), bpb, "", "", f"{rate:,.0f}", f"{micro:,.0f}", ""))
    for role in roles:
        if (g := gap(role, results)) is not None:
            sd = "-" if g.sd_pct is None else f"{g.sd_pct:.3f}"
            upper = "-" if g.upper_pct is None else f"{g.upper_pct:+.3f}"
            word = {None: "one pair says nothing", True: "kept", False: "exceeded"}[g.holds]
            speed = f"x {g.speedup:.3f}", f"x {g.micro_speedup:.3f}"
            lines.append(row(role, g.num_pairs, f"{g.mean_pct:+.3f}", sd, upper, *speed, word))
    return [*lines, f"bounds: mean gap at most {MAX_MEAN_GAP_PCT} %, its upper bound at most {MAX_UPPER_GAP_PCT} %"]


def read_results(file: Path) -> list[Result]:
    """The runs of an output file; an incomplete last line is no run."""
    if not file.exists():
        return []
    whole = file.read_text().rpartition("\n")[0]
    return [Result(**json.loads(line)) for line in whole.splitlines() if line.endswith("}")]


def append_result(file: Path, result: Result) -> None:
    """Adds a line, on its own line whatever a killed run has left."""
    is_torn = file.exists() and file.stat().st_size > 0 and not file.read_bytes().endswith(b"\n")
    with file.open("a") as out:
        out.write("\n" * is_torn + json.dumps(asdict(result)) + "\n")
