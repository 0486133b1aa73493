"""A loss gap is over pairs of runs with equal seeds; the benchmark continues where it was stopped."""

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import loss_gap
from bench.gap_stats import Result, append_result, gap, read_results, t_quantile_95, table
from nanochat.model import compiling

RUN = Result(
    variant="bf16", seed=1, config_sha256="0", device="card", torch="2", commit=None, num_steps=9, epoch=1,
    skipped_steps=0, val_bpb=1.0, train_loss=2.0, tok_per_sec=100.0, micro_tok_per_sec=200.0, wall_s=3.0,
)  # fmt: skip


@pytest.mark.parametrize(("df", "quantile"), [(1, 6.3138), (2, 2.9200), (4, 2.1318), (9, 1.8331), (30, 1.6973)])
def test_the_quantile_of_students_t_is_that_of_the_tables(df: int, quantile: float):
    assert t_quantile_95(df) == pytest.approx(quantile, abs=1e-4)


def test_a_gap_pairs_equal_seeds_and_bounds_their_mean():
    bf16 = [replace(RUN, seed=seed, val_bpb=bpb) for seed, bpb in [(1, 1.0), (2, 2.0), (3, 4.0)]]
    fp8 = [
        replace(RUN, variant="head", seed=seed, val_bpb=bpb, tok_per_sec=110.0, micro_tok_per_sec=240.0)
        for seed, bpb in [(1, 1.001), (2, 2.004), (7, 9.0)]
    ]
    found = gap("head", [*bf16, *fp8])
    assert found is not None
    assert found.num_pairs == 2
    assert found.mean_pct == pytest.approx(0.15)
    assert found.sd_pct == pytest.approx(statistics.stdev([0.1, 0.2]))
    assert found.upper_pct == pytest.approx(0.15 + 6.3138 * 0.05, abs=1e-4)
    assert (found.speedup, found.micro_speedup) == (pytest.approx(1.1), pytest.approx(1.2))
    assert not found.holds, "two pairs bound their mean badly"


def test_a_small_steady_gap_keeps_the_bounds_and_one_pair_says_nothing():
    bf16 = [replace(RUN, seed=seed) for seed in range(5)]
    fp8 = [replace(RUN, variant="all", seed=seed, val_bpb=1.001 + 1e-4 * (seed % 2)) for seed in range(5)]
    found, single = gap("all", [*bf16, *fp8]), gap("all", [*bf16, fp8[0]])
    assert found is not None
    assert found.holds
    assert single is not None
    assert single.holds is None
    assert gap("all", bf16) is None
    assert "one pair says nothing" in "\n".join(table([*bf16, fp8[0]], ["all"]))


def test_a_line_that_was_cut_off_is_no_run_and_spoils_no_other(tmp_path: Path):
    file = tmp_path / "gap.jsonl"
    append_result(file, RUN)
    with file.open("a") as out:
        out.write('{"variant": "al')
    append_result(file, replace(RUN, seed=2))
    with file.open("a") as out:
        out.write('{"variant": "al')
    assert read_results(file) == [RUN, replace(RUN, seed=2)]


def test_each_role_is_one_change_to_the_control():
    control = loss_gap.variant_config("bf16", 1, 9, is_tiny=False)
    assert control.data.total_batch_tokens == 16384
    for role in loss_gap.ROLES:
        config = loss_gap.variant_config(role, 1, 9, is_tiny=False)
        assert replace(config, precision=control.precision) == control
        assert config.precision != control.precision


@pytest.mark.integration
@pytest.mark.usefixtures("fresh_process", "dynamo_alone")
def test_what_has_run_is_not_run_again_and_a_second_seed_compiles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    file = tmp_path / "gap.jsonl"
    argv = ["--out", str(file), "--roles", "all", "--num-steps", "2"]
    loss_gap.main([*argv, "--seeds", "1", "--stop-after-s", "0"])
    assert "2 runs are missing" in capsys.readouterr().out
    loss_gap.main([*argv, "--seeds", "1"])
    assert "one pair says nothing" in capsys.readouterr().out
    graphs, first = compiling.num_graphs(), file.read_text()
    loss_gap.main([*argv, "--seeds", "2"])
    assert compiling.num_graphs() == graphs
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert file.read_text().startswith(first)
    assert [(line["variant"], line["seed"]) for line in lines] == [("bf16", 42), ("all", 42), ("bf16", 43), ("all", 43)]
    assert len({line["val_bpb"] for line in lines}) == 4
    out = capsys.readouterr().out
    assert "missing" not in out
    assert "all          2" in out
