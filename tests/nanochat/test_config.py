"""A config is checked when it is built, never changes, and is identified by its digest."""

import dataclasses
import enum
import json

import pytest

from nanochat.config import (
    ConfigError,
    DataConfig,
    ModelConfig,
    MoEConfig,
    PrecisionConfig,
    ScheduleConfig,
    TrainConfig,
    canonical_json,
    check_path,
    digest,
    field_paths,
    from_dict,
    get_field,
    to_dict,
    with_overrides,
)

MOE = TrainConfig(moe=MoEConfig())


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        MOE.model.depth = 3  # type: ignore[misc]


def test_the_width_is_rounded_up_to_whole_heads() -> None:
    model = ModelConfig(depth=3, aspect_ratio=10, head_dim=16)
    assert (model.num_heads, model.width) == (2, 32)


def test_the_vocabulary_is_padded_to_a_multiple_of_64() -> None:
    assert ModelConfig(vocab_size=65).padded_vocab_size == 128
    assert ModelConfig(vocab_size=128).padded_vocab_size == 128


def test_the_window_pattern_is_tiled_and_the_last_layer_sees_everything() -> None:
    model = ModelConfig(depth=6, seq_len=8, window_pattern="SSL")
    assert [model.window_tokens(layer) for layer in range(6)] == [4, 4, 8, 4, 4, 8]
    assert ModelConfig(depth=1, seq_len=8, window_pattern="S").window_tokens(0) == 8


def test_every_second_layer_has_a_value_embedding_and_the_last_one_does() -> None:
    for depth in (1, 4, 5):
        model = ModelConfig(depth=depth)
        layers = [layer for layer in range(depth) if model.has_value_embedding(layer)]
        assert layers == list(range(depth - 1, -1, -2))[::-1]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"model.depth": 0}, "model.depth must be positive, got 0"),
        ({"model.depth": "x"}, "model.depth must be int, got 'x'"),
        ({"model.depth": True}, "model.depth must be int, got True"),
        ({"model.depth": None}, "model.depth must be int, got None"),
        ({"model.depth": 2**63}, "model.depth must be an int of at most 64 bits, got 9223372036854775808"),
        ({"model.depth": 10**5000}, "model.depth must be an int of at most 64 bits, got a whole number of 16,610 bits"),
        ({"optim.matrix_lr": float("inf")}, "optim.matrix_lr must be a finite float, got inf"),
        ({"optim.matrix_lr": float("nan")}, "optim.matrix_lr must be a finite float, got nan"),
        ({"optim.matrix_lr": 10**400}, "optim.matrix_lr must be a finite float, got 1000"),
        ({"schedule.target_flops": -float("inf")}, "must be a finite float or None, got -inf"),
        ({"run.name": ["x" * 1000]}, "... (1,004 characters)"),
        ({"moe": 8}, "moe must be a MoEConfig or None, got 8"),
        ({"model": None}, "model must be a ModelConfig, got None"),
        ({"moe": {"num_expert": 4}}, "did you mean moe.num_experts?"),
        ({"model.head_dim": 3}, "even"),
        ({"model.window_pattern": "SXL"}, "letters S and L"),
        ({"model.dept": 3}, "did you mean model.depth?"),
        ({"moe.top_k": 9}, "moe.top_k 9 exceeds moe.num_experts 8"),
        ({"moe.capacity_factor": 0.0}, "None for exact routing"),
        ({"compile.mode": "fast"}, "compile.mode must be 'static' or 'dynamic' or 'none', got 'fast'"),
        ({"data.source": ""}, "data.source"),
        ({"data.total_batch_tokens": 100}, "no multiple of one micro-batch of 65,536 tokens"),
        ({"eval.core_max_per_task": 0}, "must not be 0"),
        ({"run.seed": -1}, "run.seed"),
        ({"schedule.target_param_data_ratio": None}, "all three are None"),
        ({"optim.adam_beta1": 1.0}, "[0, 1)"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_what_was_seen(overrides: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_overrides(MOE, overrides)
    assert words in str(caught.value)


def test_a_section_built_by_itself_checks_the_kinds_of_its_values() -> None:
    with pytest.raises(ConfigError, match=r"moe\.num_experts must be int, got '4'"):
        MoEConfig(num_experts="4")  # type: ignore[arg-type]


def test_sections_are_replaced_whole_and_their_fields_on_top() -> None:
    changed = with_overrides(MOE, {"moe.top_k": 1, "moe": {"num_experts": 4}, "model": ModelConfig(depth=3)})
    assert (changed.moe, changed.model) == (MoEConfig(num_experts=4, top_k=1), ModelConfig(depth=3))
    assert with_overrides(MOE, {"moe": None, "moe.capacity_factor": None}).moe is None
    assert with_overrides(TrainConfig(), {"moe": MoEConfig()}) == MOE


def test_taking_the_experts_away_takes_away_their_fp8_and_no_other() -> None:
    eight = with_overrides(MOE, {"precision.linears": "fp8", "precision.experts": "fp8"})
    assert with_overrides(eight, {"moe": None}).precision == PrecisionConfig(linears="fp8")
    with pytest.raises(ConfigError, match="the model has no experts"):
        with_overrides(eight, {"moe": None, "precision.experts": "fp8"})


def test_a_section_is_found_by_its_name() -> None:
    assert get_field(MOE, "moe") == MoEConfig()
    assert get_field(TrainConfig(), "moe") is None


def test_fp8_experts_need_experts() -> None:
    with pytest.raises(ConfigError, match="the model has no experts"):
        TrainConfig(precision=PrecisionConfig(experts="fp8"))


def test_only_the_moe_section_may_be_absent() -> None:
    with pytest.raises(ConfigError, match="model must be a ModelConfig, got None"):
        TrainConfig(model=None)  # type: ignore[arg-type]


def test_an_experts_field_cannot_be_set_on_a_dense_config() -> None:
    with pytest.raises(ConfigError, match="this config has no moe section"):
        with_overrides(TrainConfig(), {"moe.top_k": 1})
    assert get_field(TrainConfig(), "moe.top_k") is None


def test_two_changes_that_are_only_valid_together_are_accepted() -> None:
    changed = with_overrides(MOE, {"moe.top_k": 12, "moe.num_experts": 16})
    assert changed.moe == MoEConfig(num_experts=16, top_k=12)


def test_a_config_survives_json() -> None:
    config = with_overrides(MOE, {"moe.capacity_factor": 1.25, "schedule.num_steps": 3, "data.source": "x"})
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert from_dict(to_dict(TrainConfig())) == TrainConfig()


def test_values_of_foreign_classes_become_plain_ones_in_storage() -> None:
    class Many(enum.IntEnum):
        EXPERTS = 16

    class Name(enum.StrEnum):
        MINE = "mine"

    stored = to_dict(with_overrides(MOE, {"moe.num_experts": Many.EXPERTS, "run.name": Name.MINE}))
    kinds = (stored["moe"]["num_experts"], stored["run"]["name"])
    assert kinds == (16, "mine")
    assert [type(kind) for kind in kinds] == [int, str]


@pytest.mark.parametrize("stored", [{"modle": {}}, {"model": {"deph": 3}}, {"model": {"depth": "3"}}])
def test_a_stored_config_is_checked_like_any_other(stored: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        from_dict(stored)


def test_equal_configs_have_equal_digests_and_every_field_counts() -> None:
    assert digest(with_overrides(MOE, {"moe.capacity_factor": 1})) == digest(
        with_overrides(MOE, {"moe.capacity_factor": 1.0})
    )
    digests = {digest(MOE)}
    for path in field_paths():
        section, name = path.split(".")
        body = to_dict(MOE)
        body[section][name] = "something else"
        digests.add(digest(body))
    assert len(digests) == 1 + len(field_paths())


def test_canonical_json_ignores_order_and_keeps_order_of_lists() -> None:
    assert canonical_json({"b": 1.0, "a": (1, 2)}) == '{"a":[1,2],"b":1}'


def test_check_path_names_the_nearest_field() -> None:
    check_path("optim.matrix_lr")
    with pytest.raises(ConfigError, match=r"did you mean optim\.matrix_lr\?"):
        check_path("optim.matrix_rl")


def test_the_schedule_needs_a_length() -> None:
    assert ScheduleConfig(num_steps=3, target_param_data_ratio=None).num_steps == 3


def test_the_micro_batch_is_rows_times_context() -> None:
    config = TrainConfig(model=ModelConfig(seq_len=16), data=DataConfig(device_batch_size=3, total_batch_tokens=96))
    assert config.micro_batch_tokens == 48
