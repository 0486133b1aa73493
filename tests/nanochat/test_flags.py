"""The command line and the config say the same things: one table, both directions."""

import contextlib
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nanochat import sizes
from nanochat.config import MAX_STEPS, ConfigError, MoEConfig, TrainConfig, field_paths, with_overrides
from nanochat.flags import FLAGS, Flag, RunOptions, help_text, parse_flags, to_argv

UPSTREAM_COMMAND = """
--run dummy --fp8-recipe tensorwise --compile-mode auto --depth 20 --aspect-ratio 64 --head-dim 128
--max-seq-len 2048 --window-pattern SSSL --n-experts 8 --expert-topk 2 --moe-freq 1 --expert-hidden-mult 4
--moe-capacity-factor 0.0 --balance-loss-coeff 0.01 --num-iterations -1 --target-flops -1.0
--target-param-data-ratio 10.5 --device-batch-size 32 --total-batch-size -1 --embedding-lr 0.3 --unembedding-lr 0.004
--weight-decay 0.2 --matrix-lr 0.02 --scalar-lr 0.5 --adam-beta1 0.8 --adam-beta2 0.95 --warmup-ratio 0.0
--warmdown-ratio 0.5 --final-lr-frac 0.0 --resume-from-step -1 --eval-every 250 --eval-tokens 20971520
--core-metric-every 2000 --core-metric-max-per-task 500 --sample-every 2000 --save-every -1
"""
UPSTREAM_DEFAULTS = UPSTREAM_COMMAND.split()

OWN_FLAGS = {
    "--seed",
    "--resume",
    "--no-final-save",
    "--data",
    "--log-every",
    "--core-bundle",
    "--attention",
    "--deterministic",
    "--vocab-size",
    "--fp8-head",
    "--fp8-qkv",
    "--fp8-out",
    "--compile-fallback",
    "--inject-pct",
    "--kernels",
    "--fp8-attention",
    "--fp8-experts",
    "--router-bias-rate",
    "--router-z-loss-coeff",
}

POSITIVE = st.integers(1, 10**6)
SHARE = st.floats(0, 1, exclude_max=True)
TEXT = st.text(min_size=1, max_size=12)

# Sizes that hold together however they are combined, the default batch of 32 rows included; the rest is free.
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "model.depth": st.integers(1, 64),
    "model.aspect_ratio": st.integers(1, 256),
    "model.head_dim": st.integers(1, 128).map(lambda n: 2 * n),
    "model.seq_len": st.sampled_from([128, 1024, 4096]),
    "model.vocab_size": POSITIVE,
    "model.window_pattern": st.text("SL", min_size=1, max_size=5),
    "model.attention": st.sampled_from(["auto", "sdpa", "flash", "flash4"]),
    "precision.linears": st.sampled_from(["bf16", "fp8", "fp8_head", "fp8_attention", "fp8_qkv", "fp8_out"]),
    "precision.recipe": st.sampled_from(["tensorwise", "rowwise"]),
    "compile.mode": st.sampled_from(["static", "dynamic", "none"]),
    "compile.kernels": st.sampled_from(["auto", "torch"]),
    "compile.fallback": st.sampled_from(["error", "none"]),
    "optim.embedding_lr": st.floats(0, 10),
    "optim.unembedding_lr": st.floats(0, 10),
    "optim.matrix_lr": st.floats(0, 10),
    "optim.scalar_lr": st.floats(0, 10),
    "optim.weight_decay": st.floats(0, 10),
    "optim.adam_beta1": SHARE,
    "optim.adam_beta2": SHARE,
    "schedule.num_steps": st.none() | POSITIVE,
    "schedule.target_flops": st.none() | st.floats(1, 1e24),
    "schedule.target_param_data_ratio": st.floats(0.1, 100),
    "schedule.warmup_ratio": SHARE,
    "schedule.warmdown_ratio": SHARE,
    "schedule.final_lr_frac": SHARE,
    "data.source": st.none() | TEXT,
    "data.device_batch_size": st.sampled_from([1, 2, 16]),
    "data.total_batch_tokens": st.none() | st.integers(1, 8).map(lambda n: n * 32 * 4096),
    "eval.every": st.none() | POSITIVE,
    "eval.num_tokens": POSITIVE,
    "eval.core_every": st.none() | POSITIVE,
    "eval.core_max_per_task": POSITIVE | st.integers(-5, -1),
    "eval.core_bundle": st.none() | TEXT,
    "eval.sample_every": st.none() | POSITIVE,
    "run.name": TEXT,
    "run.seed": st.integers(0, 2**40),
    "run.device": st.sampled_from([None, "cpu", "cuda"]),
    "run.deterministic": st.booleans(),
    "run.checkpoint_every": st.none() | POSITIVE,
    "run.final_checkpoint": st.booleans(),
    "run.log_every": POSITIVE,
    "run.inject_pct": st.floats(0, 1000),
}
EXPERT_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "moe.num_experts": st.integers(4, 64),
    "moe.top_k": st.integers(1, 4),
    "moe.every": POSITIVE,
    "moe.hidden_mult": POSITIVE,
    "moe.capacity_factor": st.none() | st.floats(0.01, 8),
    "moe.balance_loss_coeff": st.floats(0, 1),
    "moe.router_z_loss_coeff": st.floats(0, 1),
    "moe.router_bias_rate": st.floats(0, 1),
    "precision.experts": st.sampled_from(["bf16", "fp8"]),
}


@st.composite
def configs(draw: st.DrawFn) -> TrainConfig:
    fields = draw(st.fixed_dictionaries({}, optional=FIELDS))
    if draw(st.booleans()):
        return with_overrides(TrainConfig(), fields)
    experts = draw(st.fixed_dictionaries({}, optional=EXPERT_FIELDS))
    return with_overrides(TrainConfig(moe=MoEConfig()), fields | experts)


run_options = st.builds(
    RunOptions,
    checkpoint_root=st.none() | TEXT,
    model_tag=st.none() | TEXT,
    resume=st.none() | st.just("latest") | POSITIVE,
)


@given(configs(), run_options)
def test_every_config_is_what_its_own_flags_mean(config: TrainConfig, options: RunOptions) -> None:
    assert parse_flags(to_argv(config, options)) == (config, options)


@given(configs(), run_options)
def test_flags_of_a_config_are_a_fixed_point(config: TrainConfig, options: RunOptions) -> None:
    argv = to_argv(config, options)
    assert to_argv(*parse_flags(argv)) == argv


def test_the_property_tests_draw_every_field() -> None:
    assert set(FIELDS) | set(EXPERT_FIELDS) == set(field_paths())


def test_no_flags_mean_the_defaults() -> None:
    assert parse_flags([]) == (TrainConfig(), RunOptions())


def test_every_upstream_flag_is_accepted_and_its_default_is_ours() -> None:
    written_out = [*UPSTREAM_DEFAULTS, "--device-type", "", "--checkpoint-root", "", "--model-tag", ""]
    config, options = parse_flags(written_out)
    assert config == TrainConfig()
    assert options == RunOptions()


def test_the_list_of_flags_is_frozen() -> None:
    upstream = {word for word in UPSTREAM_DEFAULTS if word.startswith("--")}
    upstream |= {"--device-type", "--checkpoint-root", "--model-tag", "--fp8", "--fp8-include-moe-experts", "--use-moe"}
    assert {flag.name for flag in FLAGS} == upstream | OWN_FLAGS


def test_every_field_of_a_config_has_one_flag() -> None:
    paths = [flag.path for flag in FLAGS if isinstance(flag, Flag) and flag.path]
    switched = {path for flag in FLAGS if not isinstance(flag, Flag) for path in flag.sets}
    assert len(paths) == len(set(paths))
    assert set(paths) | switched == set(field_paths())


def test_compile_mode_auto_is_dynamic_with_experts_and_static_without() -> None:
    assert parse_flags(["--compile-mode", "auto"])[0].compile.mode == "static"
    assert parse_flags(["--use-moe"])[0].compile.mode == "dynamic"
    assert parse_flags(["--use-moe", "--compile-mode", "none"])[0].compile.mode == "none"


def test_numbers_that_are_not_positive_switch_a_thing_off() -> None:
    config, options = parse_flags(["--eval-every", "0", "--save-every=-7", "--sample-every", "-1"])
    assert (config.eval.every, config.run.checkpoint_every, config.eval.sample_every) == (None, None, None)
    assert parse_flags(["--use-moe", "--moe-capacity-factor", "0"])[0].moe == MoEConfig()
    assert options.resume is None


def test_a_leading_separator_is_skipped_and_a_flag_can_be_repeated_with_its_value() -> None:
    assert parse_flags(["--", "--depth", "6", "--depth=6"])[0].model.depth == 6
    assert parse_flags(["--matrix-lr", "0.5", "--matrix-lr", ".5", "--fp8", "--fp8"])[0].optim.matrix_lr == 0.5


@given(st.sampled_from([flag for flag in FLAGS if isinstance(flag, Flag) and flag.kind is int]), POSITIVE, POSITIVE)
def test_a_flag_with_two_values_is_refused_by_name_with_both(flag: Flag, first: int, second: int) -> None:
    words = [flag.name, str(first), f"{flag.name}={second}"]
    if first == second:
        return
    with pytest.raises(ConfigError, match=f"{flag.name} is given twice, as '{first}' and as '{second}'; give it once"):
        parse_flags(words)


def test_fp8_has_a_switch_for_each_role() -> None:
    def roles(*argv: str) -> tuple[str, str]:
        precision = parse_flags(["--use-moe", *argv])[0].precision
        return precision.linears, precision.experts

    assert roles() == ("bf16", "bf16")
    assert roles("--fp8") == ("fp8", "bf16")
    assert roles("--fp8", "--fp8-include-moe-experts") == ("fp8", "fp8")
    assert roles("--fp8-experts") == ("bf16", "fp8")
    assert roles("--fp8-head") == ("fp8_head", "bf16")
    assert roles("--fp8-attention", "--fp8-experts") == ("fp8_attention", "fp8")
    assert roles("--fp8-qkv") == ("fp8_qkv", "bf16")
    assert roles("--fp8-out", "--fp8-experts") == ("fp8_out", "fp8")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--dept 3", "unknown flag --dept; did you mean --depth?"),
        ("--dep 3", "unknown flag --dep;"),
        ("--experts-backend x", "--experts-backend has no effect yet"),
        ("depth", "unexpected argument 'depth'"),
        ("--depth", "--depth needs a value"),
        ("--depth --fp8", "--depth needs a value"),
        ("--depth x", "--depth takes a whole number, got 'x'"),
        ("--matrix-lr nan", "--matrix-lr takes a finite number"),
        ("--matrix-lr 1e400", "--matrix-lr takes a finite number, got '1e400'"),
        ("--depth " + "9" * 5000, "--depth takes a whole number, got '9999"),
        ("--seed 9223372036854775808", "--seed must be an int of at most 64 bits, got 9223372036854775808"),
        ("--seed -1", "--seed must be >= 0, got -1"),
        ("--num-iterations 2147483648", "--num-iterations must be at most 2,147,483,647, got 2147483648"),
        ("--depth 10001", "--depth must be at most 10,000, got 10,001"),
        ("--run a --run b", "--run is given twice, as 'a' and as 'b'"),
        ("--checkpoint-root a --checkpoint-root=b", "--checkpoint-root is given twice, as 'a' and as 'b'"),
        ("--depth -3", "--depth must be positive, got -3"),
        ("--fp8=1", "--fp8 takes no value"),
        ("--fp8-include-moe-experts", "has no effect without --fp8"),
        ("--fp8 --fp8-experts", "exclude each other"),
        ("--fp8-head --fp8-attention", "--fp8-head and --fp8-attention exclude each other"),
        ("--fp8-experts", "without --use-moe"),
        ("--n-experts 4", "--n-experts 4 has no effect without --use-moe"),
        ("--compile-mode fast", "--compile-mode must be 'static'"),
        ("--device-type mps", "--device-type must be 'cpu'"),
        ("--resume first", "--resume takes latest"),
        ("--resume latest --resume-from-step 3", "exclude each other"),
    ],
)
def test_a_command_line_that_cannot_be_is_refused_in_its_own_words(line: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        parse_flags(line.split())


HUGE = ["1e400", "-inf", "nan", "5e-324", "1e308", "9" * 5000, str(2**31), str(2**63 - 1), str(2**63)]
ODD = st.sampled_from([*HUGE, "0", "-1", "-0.0", "", " 1 ", "1_000", "fp8", "SSSL", "cpu", "latest", "\ud800", "-"])
WORDS = st.sampled_from([flag.name for flag in FLAGS]) | ODD | st.integers(-5, 300).map(str) | TEXT


@given(st.lists(WORDS | st.tuples(WORDS, WORDS).map("=".join), max_size=12))
@example(["--depth", str(2**63 - 1), "--data", "x"])
@example(["--target-flops", "1e308"])
@example(["--num-iterations", "-1", "--target-param-data-ratio", "1e308"])
@example(["--total-batch-size", str(2**62), "--max-seq-len", "1", "--device-batch-size", "1"])
@example(["--aspect-ratio", str(2**63 - 1), "--head-dim", "2", "--max-seq-len", str(2**40)])
def test_any_words_are_a_run_whose_sizes_are_known_or_one_sentence(words: list[str]) -> None:
    with contextlib.suppress(ConfigError):
        config, options = parse_flags(words)
        assert parse_flags(to_argv(config, options)) == (config, options)
        sizes.check_world_size(config, 3)
        assert sizes.num_steps(config) <= MAX_STEPS
        assert sizes.cpu_objection(config, 3, 2**30) is None or sizes.least_cpu_bytes(config, 3) > 0


def test_the_help_names_every_flag_once() -> None:
    named = re.findall(r"^  (--\S+)", help_text(), re.MULTILINE)
    assert named == [flag.name for flag in FLAGS]
