"""Commands of other trainers: shortened flags, repeated ones, what a shell puts around them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.config import ConfigError
from sweeps.importer.commands import Command, config_of, read_command


@pytest.mark.parametrize(
    ("text", "command"),
    [
        (
            "torchrun --standalone --nproc_per_node=8 -m scripts.base_train -- \\\n  --depth \\\n  12 \\\n",
            Command(argv=("--depth", "12"), num_processes=8),
        ),
        (
            "OMP_NUM_THREADS=1 torchrun --nproc-per-node 4 scripts/base_train.py --depth=4 2>&1 | tee a.log",
            Command(argv=("--depth=4",), num_processes=4),
        ),
        ("python -m scripts.base_train --depth=4 > a.log", Command(argv=("--depth=4",), num_processes=1)),
        ("torchrun -m scripts.base_train -- --depth 4", Command(argv=("--depth", "4"), num_processes=None)),
        ("torchrun --nproc_per_node=gpu -m scripts.base_train", Command(argv=(), num_processes=None)),
    ],
)
def test_the_trainers_arguments_and_the_number_of_processes(text: str, command: Command) -> None:
    assert read_command(text) == command


@pytest.mark.parametrize("text", ["", "make demo", "torchrun -m other.trainer --depth 4", "base_train 'open"])
def test_other_texts_are_no_command(text: str) -> None:
    assert read_command(text) is None


def test_of_two_values_the_last_counts_and_a_unique_beginning_is_the_flag() -> None:
    config = config_of(["--use-moe", "--compile-mode", "static", "--num-iter", "280", "--compile-mode", "none"])
    assert (config.compile.mode, config.schedule.num_steps) == ("none", 280)


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--lora-rank", "4"], "flag --lora-rank is none of this trainer"),
        (["--e", "4"], "flag --e is short for several"),
        (["--dep"], "--depth has no value"),
        (["depth=4"], "unexpected argument 'depth'"),
        (["--depth", "deep"], "--depth takes a whole number, got 'deep'"),
    ],
)
def test_what_this_trainer_does_not_have_leaves_the_config_unknown(argv: list[str], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        config_of(argv)


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    command = read_command(f"torchrun -m scripts.base_train -- {text}")
    if command is not None:
        with contextlib.suppress(ConfigError):
            config_of(command.argv)
