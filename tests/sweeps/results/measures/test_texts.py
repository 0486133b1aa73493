"""How much text the trials needed, and which of a block saw other tokens; what is not known is not told."""

from collections.abc import Callable
from typing import Any

import pytest

from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow
from sweeps.results.measures.snapshot import read_snapshot
from sweeps.results.measures.texts import OtherTokens, other_tokens, passes_of
from sweeps.results.report.sections.texts import text_lines

MakeRow = Callable[..., StepRow]
Make = Callable[..., Experiment]
Complete = Callable[..., None]
AMOUNTS: dict[str, Any] = {"num_steps": 40, "total_batch_tokens": 1000, "text_tokens": 20_000}


def served(make_row: MakeRow, digests: list[str | None]) -> list[StepRow]:
    return [make_row(step, served_digest=digest) for step, digest in enumerate(digests)]


def text(experiment: Experiment) -> list[str]:
    lines = text_lines(read_snapshot(experiment))
    return ["".join(piece if isinstance(piece, str) else piece.value for piece in line) for line in lines]


def test_legs_of_one_length_have_one_line(make_experiment: Make, complete: Complete) -> None:
    experiment = make_experiment()
    for trial in ("static-b1", "bf16-b1"):
        complete(experiment, trial, **AMOUNTS)
    (amount,) = passes_of(read_snapshot(experiment))
    assert (amount.runs, amount.num_tokens, amount.passes) == (("static", "bf16"), 40_000, 2.0)
    assert text(experiment) == ["Each run trains on 0.04 M tokens: about 2 passes over a text of 0.02 M tokens"]


def test_more_than_four_passes_are_warned_of_and_other_lengths_have_lines_of_their_own(
    make_experiment: Make, complete: Complete
) -> None:
    experiment = make_experiment()
    complete(experiment, "static-b1", **AMOUNTS)
    complete(experiment, "bf16-b1", **(AMOUNTS | {"num_steps": 400}))
    short, long = text(experiment)
    assert short.startswith("static trains on 0.04 M tokens: about 2 passes")
    assert long.startswith(
        "bf16 trains on 0.40 M tokens: about 20 passes over a text of 0.02 M tokens. More than 4 passes"
    )


@pytest.mark.parametrize(
    "facts", [{"text_tokens": None}, {"text_tokens": 0}, {"num_steps": "x"}, {"num_steps": 10**400}]
)
def test_what_older_or_damaged_attempts_do_not_tell_is_left_out(
    make_experiment: Make, complete: Complete, facts: dict[str, Any]
) -> None:
    experiment = make_experiment()
    complete(experiment, "static-b1", **(AMOUNTS | facts))
    assert text(experiment) == []


def test_trials_of_a_block_that_were_served_other_tokens_are_told(
    make_experiment: Make, complete: Complete, make_row: MakeRow
) -> None:
    experiment = make_experiment()
    complete(experiment, "static-b1", served(make_row, ["a", "b", "c"]))
    complete(experiment, "bf16-b1", served(make_row, ["a", "x", "y"]))
    complete(experiment, "none_cap1p25-b1", served(make_row, [None, "b", "c"]))  # resumed by an older version
    assert other_tokens(read_snapshot(experiment)) == [OtherTokens(run="bf16", first="static", step=1)]
    assert text(experiment) == [
        "Not the same text: bf16 was served other tokens than static from step 1 on, so their losses do not compare"
    ]


def test_blocks_have_other_seeds_and_may_see_other_tokens(
    make_experiment: Make, complete: Complete, make_row: MakeRow
) -> None:
    experiment = make_experiment(num_blocks=2)
    complete(experiment, "static-b1", [make_row(0, trial="static-b1", served_digest="a")])
    complete(experiment, "static-b2", [make_row(0, trial="static-b2", served_digest="b")])
    assert other_tokens(read_snapshot(experiment)) == []
