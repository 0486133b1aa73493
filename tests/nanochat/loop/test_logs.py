"""The log lines, letter by letter: users' scripts read them."""

import dataclasses
import re
from typing import Any

from nanochat.config import with_overrides
from nanochat.loop import logs
from nanochat.model import compiling
from nanochat.recipes import d12_moe
from nanochat.sizes import count_params
from nanochat.stats import StepStats, TrainResult
from sweeps.importer.facts import facts_of
from sweeps.importer.lines import FactLine, read_line
from sweeps.importer.logs import LoggedRun
from tests.helpers.rows import start_facts


def _stats(**changes: Any) -> StepStats:
    stats = StepStats(
        step=12,
        num_steps=280,
        loss=4.2,
        loss_ema=4.123456,
        bal=24.03124,
        lr_mult=1.0,
        dt_ms=650.674,
        dt_median_ms=650.0,
        slowest_rank=3,
        tok_per_sec=806_400.4,
        bf16_mfu_pct=9.76,
        useful_mfu_pct=9.7,
        epoch=1,
        train_time_s=178.2,
        dropped_pct=1.0,
        max_vio=0.2,
        dead_experts=0.0,
        lost_tokens_pct=0.0,
        peak_mib=100.0,
        val_bpb=None,
        flags=(),
    )
    return dataclasses.replace(stats, **changes)


def test_a_step_line_of_a_model_with_experts():
    assert logs.step_line(_stats()) == (
        "step 00012/00280 (4.29%) | loss: 4.123456 | bal: 24.0312 | lrm: 1.00 | dt: 650.67ms | tok/sec: 806,400 | "
        "bf16_mfu: 9.76 | epoch: 1 | total time: 2.97m | eta: 398.0m"
    )


def test_a_step_line_without_experts_has_no_bal_and_up_to_step_10_no_eta():
    line = logs.step_line(_stats(bal=None, step=10, train_time_s=0.0))
    assert line.endswith("| epoch: 1 | total time: 0.00m")
    assert "bal" not in line
    assert "eta" in logs.step_line(_stats(step=11))


def test_a_z_loss_stands_after_the_balance_loss_where_it_is_in_use():
    assert "| bal: 24.0312 | z: 51.8750 | lrm: 1.00 |" in logs.step_line(_stats(z_loss=51.875))


def test_a_loss_that_is_not_finite_and_an_unknown_peak_are_still_written():
    line = logs.step_line(_stats(loss_ema=float("nan"), bf16_mfu_pct=None))
    assert "| loss: nan |" in line
    assert "| bf16_mfu: 0.00 |" in line


def test_the_eta_is_the_mean_of_the_counted_steps_times_the_rest():
    assert logs.step_line(_stats(step=20, num_steps=120, train_time_s=60.0)).endswith("| eta: 10.0m")


def test_the_lines_of_an_evaluation_and_of_the_end():
    assert logs.validation_line(250, 0.8822409) == "Step 00250 | Validation bpb: 0.882241"
    assert logs.sample_line(7, 'a "b"\nü') == r'Step 00007 | Sample: "a \"b\"\nü"'
    result = TrainResult(
        last_step=279, completed=True, peak_mib=22790.06, total_time_min=5.213, min_val_bpb=0.71854, num_skipped=0
    )
    assert logs.end_lines(result) == [
        "Peak memory usage: 22790.06MiB",
        "Total training time: 5.21m",
        "Minimum validation bpb: 0.718540",
    ]
    assert len(logs.end_lines(dataclasses.replace(result, min_val_bpb=None))) == 2
    assert logs.end_lines(dataclasses.replace(result, num_skipped=3))[-1] == "Skipped steps: 3"


def test_the_lines_about_the_model():
    lines = logs.model_lines(d12_moe(num_steps=280))
    assert lines[0] == "Vocab size: 32,768"
    assert lines[1] == "Model config:"
    assert '"n_embd": 768' in lines[2]
    assert lines[3] == "Parameter counts:"
    assert lines[4] == "wte                     : 25,165,824"
    roles = [line.split()[0] for line in lines[4:12]]
    assert roles == [
        "wte", "value_embeds", "lm_head", "transformer_matrices", "scalars", "total", "moe_inactive", "active_total"
    ]  # fmt: skip
    assert lines[12] == "Estimated FLOPs per token: 7.318380e+08"


def test_the_lines_about_card_batch_and_compilation():
    facts = start_facts(
        device="cuda",
        device_name="NVIDIA H100 80GB HBM3",
        peak_bf16_flops=989e12,
        total_batch_tokens=524_288,
        grad_accum_steps=4,
    )
    lines = logs.start_lines(facts)
    assert lines[0] == "GPU: NVIDIA H100 80GB HBM3 | Peak FLOPS (BF16): 9.89e+14"
    assert lines[1] == "Total batch size 524,288 => gradient accumulation steps: 4"
    assert logs.start_lines(dataclasses.replace(facts, device="cpu"))[0] == "CPU: NVIDIA H100 80GB HBM3"
    assert compiling.compile_line("static") == "torch.compile(dynamic=False) [compile_mode=static]"
    assert compiling.compile_line("dynamic") == "torch.compile(dynamic=True) [compile_mode=dynamic]"
    assert compiling.compile_line("none") == "torch.compile disabled [compile_mode=none]"


def test_the_first_lines_say_where_the_run_comes_from():
    lines = logs.provenance_lines(["base_train.py", "--run", "a b"], name="a b", seed=7, torch_version="2.13.0")
    assert lines[:2] == ["run: a b", "argv: base_train.py --run 'a b'"]
    assert lines[2] == "seed: 7"
    assert re.fullmatch(r"git commit: ([0-9a-f]{40}|unknown)", lines[3])
    assert lines[4] == "torch version: 2.13.0"
    assert lines[-1].startswith("host: ")


def test_what_follows_from_sizes_is_told_before_the_first_step():
    config = d12_moe(num_steps=280)
    facts = start_facts(world_size=8, num_steps=280, total_batch_tokens=524_288, flops_per_token=731_837_952.0)
    assert logs.size_lines(config, facts) == [
        "Auto-computed optimal batch size: 524,288 tokens",
        "Scaling weight decay from 0.200000 to 0.200000 for depth 12",
        "Scaling the LR for the AdamW parameters by 1/sqrt(768/768) = 1.000000",
        "Using user-provided number of iterations: 280",
        "Total number of training tokens: 146,800,640",
        f"Tokens : Scaling params ratio: {146_800_640 / count_params(config).scaling:.2f}",
        "Total training FLOPs estimate: 1.074343e+17",
        "Tokens / micro-batch / rank: 16 x 1024 = 16,384",
        "Tokens / micro-batch: 131,072",
    ]


def test_rates_are_scaled_for_another_batch_and_the_length_has_its_source():
    config = with_overrides(
        d12_moe(num_steps=10),
        {"data.total_batch_tokens": 131_072, "schedule.num_steps": None, "schedule.target_flops": 1e15},
    )
    lines = logs.size_lines(config, start_facts(world_size=2, num_steps=10, total_batch_tokens=131_072))
    assert lines[0] == "Scaling LRs by 0.5000 for batch size 131,072 (reference: 524,288)"
    assert lines[1] == "Scaling weight decay from 0.200000 to 0.100000 for depth 12"
    assert "Calculated number of iterations from target FLOPs: 10" in lines
    assert lines[-1] == "Tokens / micro-batch: 32,768"


def test_the_lines_of_a_start_are_what_an_import_reads_back():
    config = d12_moe(num_steps=280)
    facts = start_facts(
        world_size=8,
        num_steps=280,
        total_batch_tokens=524_288,
        grad_accum_steps=4,
        device="cuda",
        device_name="NVIDIA H100",
    )
    lines = [*logs.model_lines(config), *logs.size_lines(config, facts), *logs.start_lines(facts)]
    run = LoggedRun(index=0, first_line=1, last_line=1)
    for line in lines:
        run.facts |= {found.name: found.value for found in read_line(line) if isinstance(found, FactLine)}
    read = facts_of(run, None)
    assert (read["world_size"], read["total_batch_tokens"], read["grad_accum_steps"]) == (8, 524_288, 4)
    assert (read["device_name"], read["num_params"]) == ("NVIDIA H100", count_params(config).total)
