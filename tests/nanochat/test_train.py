"""A run is a function of its config alone: where it stops, how often, and on how many ranks makes no difference."""

import dataclasses
import gc
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from nanochat.checkpoints import folders as checkpoint_folders
from nanochat.checkpoints import format as checkpoint
from nanochat.config import ConfigError, TrainConfig, with_overrides
from nanochat.loop.setup import Progress
from nanochat.machine import device
from nanochat.machine.ranks import Ranks
from nanochat.metering.meter import RankStep
from nanochat.optimizer import groups as optim
from nanochat.stats import PHASES, Checkpoint, Hooks, StartFacts, StepStats, TrainResult
from nanochat.train import MAX_SKIPPED_IN_A_ROW, DivergedError, advance, train
from tests.helpers.configs import MICRO_BATCH_TOKENS, tiny_config

NUM_STEPS = 14
NUM_LANES = 6
_PHASES = [f"{phase}_{kind}" for phase in PHASES for kind in ("ms", "median_ms")]
_TIMES = (
    *("dt_ms", "dt_median_ms", "slowest_rank", "tok_per_sec", "train_time_s", "peak_mib", "flags", *_PHASES),
    "ended_unix_s",
)


def tiny(folder: str | Path, **overrides: Any) -> TrainConfig:
    """Six micro-batches a step, at rates that suit so small a batch."""
    sizes = {
        "schedule.num_steps": NUM_STEPS,
        "data.total_batch_tokens": NUM_LANES * MICRO_BATCH_TOKENS,
        **{f"optim.{rate}": 20.0 * value for rate, value in _RATES.items()},
    }
    return tiny_config(folder, **(sizes | overrides))


_RATES = {"embedding_lr": 0.3, "unembedding_lr": 0.004, "matrix_lr": 0.02, "scalar_lr": 0.5}


class Shell:
    """What torchrun's shell does with a run, with everything that it is told kept."""

    def __init__(self, root: Path | None = None, stop_after: int | None = None) -> None:
        self.root, self.stop_after = root, stop_after
        self.rows: list[StepStats] = []
        self.facts: list[StartFacts] = []
        self.saved: list[int] = []

    def run(self, config: TrainConfig) -> TrainResult:
        """Continues from the newest checkpoint in the root, if there is one."""
        asked = iter(range(1, 10**6))
        hooks = Hooks(
            on_start=self.facts.append,
            on_step=self.rows.append,
            save=self._save,
            checkpoints=lambda: checkpoint_folders.newest_first(self.root) if self.root else [],
            should_stop=lambda: next(asked) == self.stop_after,
        )
        return train(config, hooks)

    def _save(self, state: Checkpoint) -> None:
        self.saved.append(state.step)
        if self.root:
            checkpoint_folders.save(self.root, state, keep=4)


def untimed(rows: list[StepStats]) -> list[dict[str, Any]]:
    """The rows without what depends on the clock and the machine."""
    return [{k: v for k, v in vars(row).items() if k not in _TIMES} for row in rows]


def weights(folder: Path) -> dict[str, Tensor]:
    """All values and moments of a checkpoint, put together from its shards."""
    whole = folder.parent / f"{folder.name}.whole"
    dcp_to_torch_save(folder, whole)
    return torch.load(whole, weights_only=False)


def newest(root: Path) -> Path:
    return checkpoint_folders.newest_first(root)[0]


@pytest.fixture(autouse=True)
def unfrozen_garbage() -> Iterator[None]:
    """The trainer freezes the collector for the life of its process; this process runs many."""
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def undisturbed(small_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A whole run of the bounded FP8 config, with evaluations."""
    shell = Shell(tmp_path_factory.mktemp("undisturbed"))
    shell.run(_fp8(small_text))
    return shell


def _fp8(folder: str | Path, **overrides: Any) -> TrainConfig:
    precision = {"precision.linears": "fp8", "precision.experts": "fp8", "moe.capacity_factor": 1.0}
    return tiny(
        folder, **precision, **{"run.final_checkpoint": True, "eval.every": 5, "eval.num_tokens": 64}, **overrides
    )


# What is told


def test_one_row_a_step_and_the_loss_falls(undisturbed: Shell):
    rows = undisturbed.rows
    assert [row.step for row in rows] == list(range(NUM_STEPS))
    assert rows[0].loss == pytest.approx(math.log(300), abs=0.05)
    assert rows[-1].loss < rows[0].loss - 0.5
    assert rows[0].loss_ema == pytest.approx(math.log(300), abs=0.1)
    assert {row.num_steps for row in rows} == {NUM_STEPS}
    assert rows[0].lr_mult == 1
    assert rows[-1].lr_mult < 0.2


def test_a_row_holds_the_steps_time_and_the_routers_state(undisturbed: Shell):
    row = undisturbed.rows[-1]
    assert row.tok_per_sec == pytest.approx(NUM_LANES * MICRO_BATCH_TOKENS / row.dt_ms * 1e3)
    assert row.bf16_mfu_pct is None, "no peak is known for a CPU"
    assert row.bal is not None
    assert row.bal > 3.9, "two layers, top 2: 4 is perfect"
    assert row.dropped_pct is not None
    assert 0 < row.dropped_pct < 50
    assert row.max_vio is not None
    assert row.max_vio > 0
    assert row.dead_experts is not None
    assert row.lost_tokens_pct is not None
    assert row.layer_dropped_pct is not None
    assert len(row.layer_dropped_pct) == 2
    assert row.layer_max_vio is not None
    assert max(row.layer_max_vio) == pytest.approx(row.max_vio, abs=1e-4)
    assert (row.z_loss, row.largest_router_bias) == (None, None)
    assert row.flags == ("warmup",)


def test_the_phases_of_a_step_add_up_to_less_than_its_time(undisturbed: Shell):
    for row in undisturbed.rows:
        parts = (row.data_ms, row.forward_ms, row.backward_ms, row.optimizer_ms)
        assert all(part is not None and part > 0 for part in parts)
        assert 0.5 * row.dt_ms < sum(part or 0 for part in parts) <= row.dt_ms
        assert (row.communication_ms, row.checkpoint_ms) == (0, 0), "alone, and without a save before the last step"


def test_timed_are_the_steps_after_the_tenth(undisturbed: Shell):
    rows = undisturbed.rows
    assert rows[10].train_time_s == 0
    assert rows[-1].train_time_s == pytest.approx(sum(row.dt_ms for row in rows[11:]) / 1e3)


def test_evaluation_is_due_every_few_steps_and_at_the_end(undisturbed: Shell):
    assert [row.step for row in undisturbed.rows if row.val_bpb is not None] == [4, 9, 13]
    assert [row.step for row in undisturbed.rows if "eval" in row.flags] == [5, 10]


def test_the_facts_of_the_start(undisturbed: Shell):
    facts = undisturbed.facts[0]
    assert (facts.world_size, facts.device, facts.first_step) == (1, "cpu", 0)
    assert (facts.total_batch_tokens, facts.grad_accum_steps) == (384, NUM_LANES)
    assert facts.num_params > facts.num_active_params > 0
    assert facts.backends["linears"] == facts.backends["experts"] == "fp8 (emulated)"
    assert "mlp" not in facts.backends, "every layer has experts"


def test_a_model_without_experts_has_no_router_columns(small_text: Path):
    shell = Shell()
    config = dataclasses.replace(tiny(small_text, **{"schedule.num_steps": 2, "precision.linears": "fp8"}), moe=None)
    result = shell.run(config)
    row = shell.rows[-1]
    assert shell.facts[0].backends["mlp"] == "fp8 (emulated)"
    assert "experts" not in shell.facts[0].backends
    assert result.completed
    router = (row.bal, row.dropped_pct, row.max_vio, row.dead_experts, row.lost_tokens_pct, row.layer_max_vio)
    assert router == (None,) * 6


def test_exact_routing_drops_nothing(small_text: Path):
    shell = Shell()
    shell.run(tiny(small_text, **{"schedule.num_steps": 2}))
    assert [(row.dropped_pct, row.lost_tokens_pct) for row in shell.rows] == [(0, 0)] * 2


def test_without_a_final_checkpoint_none_is_written_at_the_end(small_text: Path):
    every_two = {"schedule.num_steps": 4, "run.checkpoint_every": 2}
    without, with_final = Shell(), Shell()
    without.run(tiny(small_text, **every_two))
    with_final.run(tiny(small_text, **every_two, **{"run.final_checkpoint": True}))
    assert (without.saved, with_final.saved) == ([2], [2, 4])
    flagged = [row.step for row in without.rows if "checkpoint" in row.flags]
    assert flagged in ([2], [2, 3]), "the next step, and as many as the writer takes"


def test_a_step_tells_how_long_the_save_before_it_held_up_training(small_text: Path, tmp_path: Path):
    shell = Shell(tmp_path)
    shell.run(tiny(small_text, **{"schedule.num_steps": 3, "run.checkpoint_every": 2}))
    assert [bool(row.checkpoint_ms) for row in shell.rows] == [False, False, True]


def test_the_step_after_a_slow_record_says_that_it_waited(small_text: Path):
    rows: list[StepStats] = []

    def store(stats: StepStats) -> None:
        rows.append(stats)
        time.sleep(0.1 + stats.dt_ms / 1e3 if stats.step == 1 else 0)

    train(tiny(small_text, **{"schedule.num_steps": 4}), Hooks(on_step=store))
    assert ("storage" in rows[0].flags, "storage" in rows[2].flags) == (False, True)


# Stopping and continuing


@pytest.mark.parametrize("stops", [[1], [5], [13], [3, 4, 2]])
def test_a_run_that_was_stopped_and_resumed_is_bit_equal_to_an_undisturbed_one(
    small_text: Path, tmp_path: Path, undisturbed: Shell, stops: list[int]
):
    rows: list[StepStats] = []
    for num_more in stops:
        part = Shell(tmp_path, stop_after=num_more)
        result = part.run(_fp8(small_text))
        assert (result.completed, len(part.rows)) == (False, num_more)
        rows += part.rows
    rest = Shell(tmp_path)
    assert rest.run(_fp8(small_text)).completed
    assert rest.facts[0].first_step == sum(stops)
    assert rest.rows[0].flags == ("resumed", "warmup")
    rows += rest.rows
    assert untimed(rows) == untimed(undisturbed.rows)
    assert rows[-1].train_time_s == pytest.approx(sum(row.dt_ms for row in rows[11:]) / 1e3)
    assert undisturbed.root is not None
    ours, theirs = weights(newest(tmp_path)), weights(newest(undisturbed.root))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    progress = [json.loads((newest(root) / "trainer.json").read_text()) for root in (tmp_path, undisturbed.root)]
    for numbers in progress:
        del numbers["train_time_s"]
    assert progress[0] == progress[1]


def test_the_routers_biases_go_on_where_they_were(small_text: Path, tmp_path: Path):
    router = {"moe.router_bias_rate": 0.01, "moe.router_z_loss_coeff": 0.01, "schedule.num_steps": 6}
    config = tiny(small_text, **router, **{"run.final_checkpoint": True})
    whole = Shell(tmp_path / "whole")
    whole.run(config)
    part, rest = Shell(tmp_path / "parts", stop_after=3), Shell(tmp_path / "parts")
    part.run(config)
    rest.run(config)
    assert untimed(part.rows + rest.rows) == untimed(whole.rows)
    largest = [row.largest_router_bias for row in whole.rows]
    assert largest[0] == 0, "as it was during the step"
    assert largest[-1] in [pytest.approx(0.01 * n) for n in range(1, 6)]
    ours, theirs = weights(newest(tmp_path / "parts")), weights(newest(tmp_path / "whole"))
    assert {"buffer.router_bias.0", "buffer.router_bias.1"} < ours.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert ours["buffer.router_bias.0"].abs().max() > 0


def test_a_completed_run_that_is_started_again_does_nothing(small_text: Path, tmp_path: Path):
    config = tiny(small_text, **{"schedule.num_steps": 2, "run.final_checkpoint": True})
    Shell(tmp_path).run(config)
    again = Shell(tmp_path)
    result = again.run(config)
    assert (result.completed, result.last_step, again.rows, again.saved) == (True, 1, [], [])


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    small_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = tiny(small_text, **{"schedule.num_steps": 8, "run.checkpoint_every": 2})
    first = Shell(tmp_path, stop_after=6)
    first.run(config)
    victim = next(newest(tmp_path).glob("*.distcp"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    second = Shell(tmp_path)
    assert second.run(config).completed
    assert second.facts[0].first_step == 4
    assert untimed(second.rows)[:2] == untimed(first.rows)[4:]
    printed = capsys.readouterr().out
    assert f"warning: checkpoint not used: {victim} is damaged" in printed
    assert "Continuing from step_000004 at step 4" in printed


def test_where_all_checkpoints_are_damaged_a_run_begins_anew_only_if_it_may(small_text: Path, tmp_path: Path):
    config = tiny(small_text, **{"schedule.num_steps": 2, "run.final_checkpoint": True})
    Shell(tmp_path).run(config)
    (newest(tmp_path) / "checkpoint.json").write_text("{")
    hooks = Hooks(checkpoints=lambda: [newest(tmp_path)], may_start_anew=False)
    with pytest.raises(checkpoint.CheckpointError, match="none of the checkpoints to continue from is good"):
        train(config, hooks)
    assert train(config, dataclasses.replace(hooks, may_start_anew=True)).completed


def test_a_checkpoint_of_another_config_is_refused_by_name(small_text: Path, tmp_path: Path):
    config = tiny(small_text, **{"schedule.num_steps": 2, "run.final_checkpoint": True})
    Shell(tmp_path).run(config)
    why = r"step_000002 was written by a run with another config, or by a version of the trainer"
    for change in ({"optim.matrix_lr": 0.1}, {"moe.capacity_factor": 1.0}, {"run.seed": 7}):
        with pytest.raises(checkpoint.CheckpointError, match=why):
            Shell(tmp_path).run(with_overrides(config, change))


def test_logging_and_checkpoint_settings_may_change_when_a_run_continues(small_text: Path, tmp_path: Path):
    config = tiny(small_text, **{"schedule.num_steps": 3})
    Shell(tmp_path, stop_after=1).run(config)
    changed = with_overrides(config, {"run.log_every": 5, "run.checkpoint_every": 1, "run.name": "other"})
    assert Shell(tmp_path).run(changed).completed


# What cannot continue


def test_ten_steps_in_a_row_without_a_finite_gradient_end_the_run(small_text: Path, capsys: pytest.CaptureFixture[str]):
    shell = Shell()
    config = tiny(small_text, **{f"optim.{rate}": 1e30 for rate in _RATES}, **{"schedule.num_steps": 100})
    with pytest.raises(DivergedError, match="not finite; there is no checkpoint; lower the learning rates"):
        shell.run(config)
    skipped = ["skipped" in row.flags for row in shell.rows]
    assert skipped[-MAX_SKIPPED_IN_A_ROW:] == [True] * MAX_SKIPPED_IN_A_ROW
    assert not any(skipped[:-MAX_SKIPPED_IN_A_ROW])
    assert math.isnan(shell.rows[-1].loss)
    assert math.isnan(shell.rows[-1].loss_ema)
    last = f"Step {len(shell.rows):05d} | skipped: a gradient is not finite ({MAX_SKIPPED_IN_A_ROW} so far)"
    assert last in capsys.readouterr().out.splitlines()


def test_the_averaged_loss_goes_on_after_a_step_that_was_not_finite():
    progress = Progress()
    for step, loss in enumerate([2.0, math.nan, 2.0]):
        advance(progress, step, [RankStep(1.0, loss, loss, 0.0, 1.0, 0.0, 0.0, [], [])])
    assert progress.loss_ema / progress.ema_weight == pytest.approx(2.0)
    assert progress.ema_weight == pytest.approx(1 - 0.9**2)


def test_a_model_of_another_vocabulary_than_the_tokenizers_is_refused(small_text: Path):
    with pytest.raises(ConfigError, match=r"model.vocab_size is 512 but the tokenizer of .* has 300 entries"):
        Shell().run(tiny(small_text, **{"model.vocab_size": 512}))


# Ranks


def _in_fp32() -> None:
    """Makes sums that differ in their order alone differ as little as they can."""
    device.cpu_has_fast_bf16 = lambda: False
    optim.BUCKET_ELEMENTS = 10_000  # several buckets in a group


def _four_steps(folder: str) -> TrainConfig:
    """At the rates of full size: an optimizer that equalises every direction multiplies rounding by what it moves."""
    rates = {f"optim.{rate}": value for rate, value in _RATES.items()} | {"moe.router_bias_rate": 0.001}
    validation = {"eval.every": 2, "eval.num_tokens": 2 * NUM_LANES * MICRO_BATCH_TOKENS}
    return tiny(
        folder,
        **rates,
        **validation,
        **{"schedule.num_steps": 4, "run.checkpoint_every": 1, "run.final_checkpoint": True},
    )


def train_four_steps(ranks: Ranks, folder: str, root: str, stop_after: int | None = None) -> list[StepStats]:
    _in_fp32()
    shell = Shell(Path(root), stop_after)
    shell.run(_four_steps(folder))
    return shell.rows


def test_one_two_and_three_ranks_train_alike_up_to_summation_order(small_text: Path, tmp_path: Path, run_world: Any):
    folder = str(small_text)
    by_size = {n: run_world(train_four_steps, n, folder, str(tmp_path / str(n))) for n in (1, 2, 3)}
    alone = by_size[1][0]
    first_step = weights(tmp_path / "1" / "step_000001")
    for size in (2, 3):
        rows = by_size[size][0]
        assert by_size[size][1:] == [[]] * (size - 1), "rank 0 alone is told"
        assert rows[0].loss == pytest.approx(alone[0].loss, rel=1e-6)
        assert [row.loss for row in rows] == pytest.approx([row.loss for row in alone], rel=1e-4)
        assert [row.bal for row in rows] == pytest.approx([row.bal for row in alone], rel=1e-4)
        assert [rows[i].val_bpb for i in (1, 3)] == pytest.approx([alone[i].val_bpb for i in (1, 3)], rel=1e-4)
        ours = weights(tmp_path / str(size) / "step_000001")
        assert ours.keys() == first_step.keys()
        for name, theirs in first_step.items():
            if "_scale" in name:
                continue  # before the first update the norms cancel every scale: its gradient is rounding alone
            error = (ours[name] - theirs).norm() / theirs.norm().clamp(min=1e-12)
            assert error < (1e-3 if name.endswith("value") else 1e-5), f"{name} on {size} ranks"


def test_a_run_may_continue_on_another_number_of_ranks(small_text: Path, tmp_path: Path, run_world: Any):
    folder = str(small_text)
    whole = run_world(train_four_steps, 1, folder, str(tmp_path / "whole"))[0]
    first = run_world(train_four_steps, 2, folder, str(tmp_path / "parts"), 2)[0]
    rest = run_world(train_four_steps, 3, folder, str(tmp_path / "parts"))[0]
    assert [row.step for row in rest] == [2, 3]
    assert [row.loss for row in first + rest] == pytest.approx([row.loss for row in whole], rel=1e-4)
    biases = [row.largest_router_bias for row in first + rest]
    assert biases == pytest.approx([row.largest_router_bias for row in whole], abs=1e-6)
    assert biases[0] == 0 < (biases[1] or 0)


def stop_and_resume(ranks: Ranks, folder: str, root: str) -> list[list[StepStats]]:
    """An undisturbed run of the FP8 config, and one that is stopped twice."""
    config = _fp8(folder, **{"schedule.num_steps": 6})
    whole = Shell(Path(root) / "whole")
    whole.run(config)
    rows: list[StepStats] = []
    for stop_after in (2, 3, None):
        part = Shell(Path(root) / "parts", stop_after)
        part.run(config)
        rows += part.rows
    return [whole.rows, rows]


def test_two_ranks_stopped_and_resumed_are_bit_equal_to_two_undisturbed_ones(
    small_text: Path, tmp_path: Path, run_world: Any
):
    whole, parts = run_world(stop_and_resume, 2, str(small_text), str(tmp_path))[0]
    assert len(parts) == 6
    assert untimed(parts) == untimed(whole)
    ours, theirs = weights(newest(tmp_path / "parts")), weights(newest(tmp_path / "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def refuse(ranks: Ranks, folder: str) -> str:
    with pytest.raises(ConfigError) as error:
        Shell().run(tiny(folder, **{"data.total_batch_tokens": 3 * MICRO_BATCH_TOKENS}))
    return str(error.value)


def test_ranks_that_the_micro_batches_do_not_divide_over_are_refused(small_text: Path, run_world: Any):
    for message in run_world(refuse, 2, str(small_text)):
        assert "has 3 micro-batches of 64 tokens, which do not divide over 2 workers; use 1, 3 workers" in message
