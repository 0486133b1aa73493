"""Lines as trainers print them, and as accidents leave them: a number counts only if it is whole."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.importer.lines import EndLine, ErrorLine, EvalLine, FactLine, StepLine, Unread, plain_line, read_line

FULL = (
    "step 00012/00280 (4.29%) | loss: 4.123456 | bal: 24.0312 | lrm: 1.00 | dt: 650.67ms | tok/sec: 806,400 | "
    "bf16_mfu: 9.76 | epoch: 1 | total time: 2.97m | eta: 0.1m"
)
VALUES = {
    "loss": 4.123456,
    "bal": 24.0312,
    "lr_mult": 1.0,
    "dt_ms": 650.67,
    "tok_per_sec": 806400.0,
    "bf16_mfu_printed_pct": 9.76,
    "epoch": 1.0,
    "total_time_min": 2.97,
}


def only(line: str, **settings: bool) -> object:
    (found,) = read_line(line, **settings)
    return found


def step(line: str, **settings: bool) -> StepLine:
    found = only(line, **settings)
    assert isinstance(found, StepLine)
    return found


def test_a_step_line_is_read_by_its_names():
    assert only(FULL) == StepLine(step=12, num_steps=280, values=VALUES)


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        (FULL.replace("bf16_mfu", "mfu"), {"bf16_mfu_printed_pct": None, "mfu_printed_pct": 9.76}),
        (FULL.replace("| epoch: 1 |", "| epoch: 1 pq: 0 rg: 8 |"), {}),
        (FULL.replace(" | bal: 24.0312", ""), {"bal": None}),
        (FULL.replace(" | dt:", " | grad norm: 1.2500 | dt:"), {"grad_norm": 1.25}),
        (FULL.replace(" | dt:", " | lr(adamw:1.0e-03, muon:2.0e-02) | dt:"), {}),
        (FULL.replace(" | epoch", " | data_wait: 0.10ms | samples/sec: 12 | mask: 3 | epoch"), {}),
        (FULL.replace("9.76", "9.76%"), {}),
        (FULL.replace("4.123456", "nan"), {"loss": math.nan}),
    ],
    ids=["mfu", "epoch", "no bal", "grad norm", "rates", "fork", "percent", "nan"],
)
def test_every_known_shape_is_read(line: str, changed: dict[str, float | None]):
    wanted = {name: value for name, value in (VALUES | changed).items() if value is not None}
    assert step(line).values == pytest.approx(wanted, nan_ok=True)


def test_a_step_line_without_the_number_of_steps():
    line = (
        "step 00953 (100.0%) | loss: 0.997900 | lrm: 0.00 | dt: 300ms | tok/sec: 1,600,000 | mfu: 39.8% | remaining: 0s"
    )
    values = {"loss": 0.9979, "lr_mult": 0.0, "dt_ms": 300.0, "tok_per_sec": 1.6e6, "mfu_printed_pct": 39.8}
    assert only(line) == StepLine(step=953, num_steps=None, values=values)


@pytest.mark.parametrize("line", [f"`{FULL}`", f"\x1b[32m{FULL}\x1b[0m", f"50%|###  |\r{FULL}\r\n", f"[rank0]: {FULL}"])
def test_what_surrounds_a_line_does_not_matter(line: str):
    assert step(line).values == VALUES


def test_of_spliced_lines_the_last_value_before_the_splice_is_not_believed():
    cut = FULL[: FULL.index("| epoch: 1") + len("| epoch: 1")]
    first, second = read_line(cut + FULL)
    assert isinstance(first, StepLine)
    assert first.values == {name: value for name, value in VALUES.items() if name not in ("epoch", "total_time_min")}
    assert second == StepLine(step=12, num_steps=280, values=VALUES)


def test_a_torn_line_loses_its_last_value_and_nothing_else():
    torn = FULL[: FULL.index("tok/sec: 806,400") + len("tok/sec: 806,4")]
    assert step(torn, is_torn=True).values == {name: VALUES[name] for name in ("loss", "bal", "lr_mult", "dt_ms")}


@given(st.integers(0, len(FULL)))
def test_no_cut_line_yields_a_number_that_the_whole_one_does_not(end: int):
    for found in read_line(FULL[:end], is_torn=True):
        if isinstance(found, StepLine):
            assert found.values.items() <= VALUES.items()


@given(st.integers(0, len(FULL)), st.integers(0, len(FULL)))
def test_no_splice_yields_a_number_that_neither_line_holds(end: int, start: int):
    other = FULL.replace("4.123456", "3.5").replace("806,400", "806,401").replace("00012", "00013")
    allowed = set(VALUES.items()) | {("loss", 3.5), ("tok_per_sec", 806401.0)}
    for found in read_line(FULL[:end] + other[: start or None]):
        if isinstance(found, StepLine) and found.step == 12:
            assert found.values.items() <= allowed


@pytest.mark.parametrize("value", ["1,07", "12,34,567", "1.2.3", "0x10", "1e999", "９", "--1", "1_000", "650.67"])
def test_a_value_that_is_no_whole_number_in_its_unit_is_unknown(value: str):
    found = step(FULL.replace("650.67ms", value).replace("806,400", value if "," in value else "1"))
    assert "dt_ms" not in found.values
    assert "dt" in found.unread


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("Step 00250 | Validation bpb: 0.882241", EvalLine(step=250, metric="val_bpb", value=0.882241)),
        ("Step 02000 | CORE metric: 0.1234", EvalLine(step=2000, metric="core", value=0.1234)),
        ("Peak memory usage: 22790.06MiB", EndLine(name="peak_mib", value=22790.06)),
        ("Total training time: 5.21m", EndLine(name="total_time_min", value=5.21)),
        ("Minimum validation bpb: 0.718540", EndLine(name="min_val_bpb", value=0.71854)),
        ("Vocab size: 32,768", FactLine(name="Vocab size", value="32,768")),
        ("wte                     : 25,165,824", FactLine(name="parameters.wte", value="25165824")),
        ("torch.compile disabled [compile_mode=none]", FactLine(name="compile_mode", value="none")),
        (
            "torch._inductor.exc.InductorError: AssertionError: ",
            ErrorLine(text="torch._inductor.exc.InductorError: AssertionError:"),
        ),
        ("[rank3]: RuntimeError: a size", ErrorLine(text="RuntimeError: a size")),
    ],
)
def test_the_other_lines_of_a_run(line: str, found: object):
    assert only(line) == found


@pytest.mark.parametrize(
    "line",
    [
        "",
        "<|bos|>The table | 3 | 4 | step by step",
        "next step 12/280 is fine",
        "tok/sec: 12",
        "Peak memory usage: lots",
    ],
)
def test_samples_and_chatter_are_nothing(line: str):
    assert not [found for found in read_line(line) if not isinstance(found, Unread)]


def test_records_of_key_and_value_are_read_as_well():
    line = 'step step=12 num_steps=280 loss=4.5 dt_ms=650.67 tok_per_sec=806400 note="a b"'
    assert only(line) == StepLine(
        step=12, num_steps=280, values={"loss": 4.5, "dt_ms": 650.67, "tok_per_sec": 806400.0}
    )
    assert only("config depth=12") == FactLine(name="config.depth", value="12")
    assert only("eval step=5 val_bpb=0.9") == EvalLine(step=5, metric="val_bpb", value=0.9)
    assert isinstance(only('step step=1 note="open'), Unread)


@settings(max_examples=400)
@given(st.text(max_size=300), st.booleans())
def test_no_text_breaks_the_reader(text: str, is_torn: bool):
    list(read_line(text, is_torn=is_torn))
    assert "\x1b[" not in plain_line("\x1b[1m" + text) or "\x1b[" in text
