"""Tables fit the terminal, and names stay different."""

import pytest

from cli.fitting import fitted
from cli.plan import plan_table
from cli.status import LEAST

NAMES = [f"moe_fp8_experts_{mode}_cap{cap}" for mode in ("static", "dynamic", "nocompile") for cap in ("1p0", "1p25")]
HEADERS = (
    *("run", "status", "steps_observed", "last_step", "last_loss", "tail50_tok/sec", "tail50_mfu"),
    *("tail50_dt_ms", "peak_mem_mib", "total_time_min"),
)
ROWS = [(name, "interrupted", "280", "279", "3.7242", "785,203", "9.50", "670.3", "18984", "3.00") for name in NAMES]


@pytest.mark.parametrize("columns", [70, 80, 100, 120, 200])
def test_status_fits_and_names_stay_different(columns: int) -> None:
    text, left_out = fitted(HEADERS, ROWS, columns=columns, dropped_first=LEAST)
    lines = text.splitlines()
    assert max(map(len, lines)) <= columns
    assert len({line.split()[0] for line in lines[1:]}) == len(NAMES)
    assert all(header in lines[0] for header in HEADERS if header not in left_out)
    assert (left_out == ()) == (columns >= 168)


def test_a_pipe_gets_everything() -> None:
    text, left_out = fitted(HEADERS, ROWS, columns=None, dropped_first=LEAST)
    assert left_out == ()
    assert [line.split()[0] for line in text.splitlines()[1:]] == NAMES


def test_a_plan_puts_long_overrides_below_their_leg() -> None:
    overrides = "compile.mode=static moe.capacity_factor=1.0 precision.linears=bf16 precision.experts=bf16"
    rows = [(name, "candidate", overrides) for name in NAMES]
    text = plan_table(rows, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("precision.experts=bf16") == len(NAMES)
    assert "overrides" in plan_table(rows, None).splitlines()[0]
