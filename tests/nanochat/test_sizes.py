"""Sizes follow from the config alone; the known configuration has the known figures."""

import pytest

from nanochat.config import ConfigError, TrainConfig, with_overrides
from nanochat.recipes import d12_moe, d12_moe_fp8, shrink_to_tiny
from nanochat.sizes import (
    auto_batch_tokens,
    batch_tokens,
    check_width,
    check_world_size,
    checkpoint_bytes,
    count_params,
    cpu_objection,
    flops_per_token,
    is_moe_layer,
    least_cpu_bytes,
    num_lanes,
    num_steps,
)

D12 = d12_moe_fp8(num_steps=280)


def test_the_d12_moe_model_has_its_known_parameter_counts() -> None:
    counts = count_params(D12)
    assert counts.wte == counts.lm_head == 25_165_824
    assert counts.value_embeds == 6 * 25_165_824
    assert counts.moe_inactive == 169_869_312
    assert counts.scalars == 24
    assert round(counts.total / 1e6) == 456
    assert round(counts.active_total / 1e6) == 286


def test_the_d12_moe_model_has_its_known_flops_and_automatic_batch() -> None:
    assert flops_per_token(D12) == 731_837_952
    assert auto_batch_tokens(D12) == batch_tokens(D12) == 524_288
    assert num_lanes(D12) == 32


def test_a_small_dense_model_can_be_counted_by_hand() -> None:
    config = with_overrides(
        TrainConfig(),
        {
            "model.depth": 2,
            "model.aspect_ratio": 2,
            "model.head_dim": 2,
            "model.vocab_size": 60,
            "model.seq_len": 8,
            "model.window_pattern": "S",
        },
    )
    counts = count_params(config)
    assert (counts.wte, counts.lm_head, counts.value_embeds) == (64 * 4, 64 * 4, 64 * 4)  # width 4, one table
    assert counts.transformer_matrices == 2 * (4 * 16 + 8 * 16) + 32 * 2  # two blocks and one gate for two heads
    assert counts.moe_inactive == 0
    assert flops_per_token(config) == 6 * (448 + 256) + 12 * 4 * (4 + 8)
    assert checkpoint_bytes(config) == 4 * (2 * 448 + 3 * (3 * 256 + 4))  # 2 numbers per matrix element, 3 per other


def test_experts_are_in_every_nth_layer() -> None:
    config = with_overrides(D12, {"moe.every": 5})
    assert [layer for layer in range(12) if is_moe_layer(config, layer)] == [0, 5, 10]
    assert not is_moe_layer(TrainConfig(), 0)
    dense_share = count_params(config).transformer_matrices - 3 * 8 * (768 + 4 * 768**2)
    assert dense_share == 12 * 4 * 768**2 + 9 * 8 * 768**2 + 6 * 32 * 12


def test_inactive_experts_do_not_enlarge_the_automatic_batch() -> None:
    assert auto_batch_tokens(with_overrides(D12, {"moe.num_experts": 64})) == 524_288


def test_a_deeper_model_gets_a_larger_batch_and_a_given_batch_wins() -> None:
    assert auto_batch_tokens(TrainConfig()) == 2**20
    assert batch_tokens(with_overrides(TrainConfig(), {"data.total_batch_tokens": 65_536})) == 65_536


def test_a_batch_that_does_not_divide_over_the_workers_is_refused_with_those_that_fit() -> None:
    for workers in (1, 2, 4, 8, 16, 32):
        check_world_size(D12, workers)
    with pytest.raises(ConfigError, match=r"32 micro-batches .* over 3 workers; use 1, 2, 4, 8, 16, 32 workers"):
        check_world_size(D12, 3)
    with pytest.raises(ConfigError, match="do not divide over 64 workers"):
        check_world_size(D12, 64)


def test_a_width_that_the_kernels_cannot_take_is_refused() -> None:
    in_bf16 = with_overrides(D12, {"precision.linears": "bf16", "precision.experts": "bf16"})
    narrow = with_overrides(in_bf16, {"model.depth": 3, "model.aspect_ratio": 20, "model.head_dim": 20})
    check_width(D12, in_bf16=True, has_fp8_units=True)
    check_width(narrow, in_bf16=False, has_fp8_units=True)
    with pytest.raises(ConfigError, match=r"width is 60, experts in bf16 need a multiple of 8; change .*head_dim \(20"):
        check_width(narrow, in_bf16=True, has_fp8_units=False)
    in_fp8 = with_overrides(narrow, {"model.aspect_ratio": 40, "precision.linears": "fp8"})
    check_width(in_fp8, in_bf16=True, has_fp8_units=False)
    with pytest.raises(ConfigError, match="width is 120, products in FP8 need a multiple of 16"):
        check_width(in_fp8, in_bf16=True, has_fp8_units=True)


def test_an_automatic_batch_that_is_no_multiple_of_the_micro_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"automatic batch of 524,288 tokens is no multiple .* 3,072 tokens"):
        num_lanes(with_overrides(D12, {"data.device_batch_size": 3}))


def test_the_first_length_that_is_set_decides_the_steps() -> None:
    assert num_steps(D12) == 280
    by_flops = with_overrides(D12, {"schedule.num_steps": None, "schedule.target_flops": 731_837_952 * 524_288 * 7.0})
    assert num_steps(by_flops) == 7
    by_ratio = with_overrides(D12, {"schedule.num_steps": None})
    assert num_steps(by_ratio) == int(10.5 * count_params(D12).scaling) // 524_288


def test_the_tiny_size_has_two_lanes_and_keeps_the_experts() -> None:
    tiny = shrink_to_tiny(d12_moe(num_steps=280))
    assert (num_lanes(tiny), tiny.model.width, num_steps(tiny)) == (2, 128, 40)
    assert tiny.moe == D12.moe


def test_a_tiny_validation_takes_seconds_and_a_shorter_one_stays() -> None:
    assert shrink_to_tiny(D12).eval.num_tokens == 4096
    assert shrink_to_tiny(with_overrides(D12, {"eval.num_tokens": 256})).eval.num_tokens == 256


def test_a_cpu_carries_neither_a_step_of_full_size_nor_more_memory_than_is_free() -> None:
    full, tiny = d12_moe(num_steps=1), shrink_to_tiny(d12_moe(num_steps=1))
    assert "is too much for a CPU, and there is no GPU" in (cpu_objection(full, 2, None) or "")
    asked_for = with_overrides(full, {"run.device": "cpu"})
    assert cpu_objection(asked_for, 2, None) is None
    assert cpu_objection(asked_for, 2, 2**40) is None
    objection = cpu_objection(asked_for, 2, 2**33)
    assert objection is not None
    assert objection.startswith("2 ranks need at least ")
    assert objection.endswith(" GiB of memory for this model and batch, and 8.0 GiB are free")
    assert cpu_objection(tiny, 2, 2**30) is None


def test_the_least_memory_counts_weights_and_logits_per_rank_and_the_optimizers_state_once() -> None:
    tiny = shrink_to_tiny(d12_moe(num_steps=1))
    per_rank = 4 * count_params(tiny).total + 8 * 2 * 128 * 32768
    one, three = least_cpu_bytes(tiny, 1), least_cpu_bytes(tiny, 3)
    assert (one, three - one) == (per_rank + checkpoint_bytes(tiny), 2 * per_rank)


@pytest.mark.parametrize("field", ["target_flops", "target_param_data_ratio"])
@pytest.mark.parametrize("value", [1e30, 1e308])
def test_a_run_of_more_steps_than_tables_count_is_refused(field: str, value: float) -> None:
    absent = {"schedule.num_steps": None, "schedule.target_flops": None, "schedule.target_param_data_ratio": None}
    config = with_overrides(d12_moe(num_steps=1), absent | {f"schedule.{field}": value})
    with pytest.raises(ConfigError, match=rf"schedule\.{field} means .* steps; at most 2,147,483,647 can be counted"):
        num_steps(config)


def test_a_step_of_more_micro_batches_than_can_keep_their_place_is_refused() -> None:
    many = with_overrides(shrink_to_tiny(d12_moe(num_steps=1)), {"data.total_batch_tokens": 2**60})
    with pytest.raises(ConfigError, match=r"every one keeps its own place in the text; at most 1,048,576 can be"):
        check_world_size(many, 3)
    assert num_lanes(with_overrides(many, {"data.total_batch_tokens": 2**28})) == 2**20
