"""Kernel libraries are used in the version that was measured and on the cards they are for; else it is said why not."""

import tomllib
from pathlib import Path

import torch

from nanochat.machine.kernel_libraries import VERSIONS, capability_problem, unusable, version_problem

ROOT = Path(__file__).parents[3]


def test_another_version_or_none_is_named_with_the_command_that_helps() -> None:
    wanted = VERSIONS["quack-kernels"]
    assert version_problem("quack-kernels", wanted) is None
    other = version_problem("quack-kernels", "9.9")
    assert other == f"quack-kernels 9.9 is installed, {wanted} is needed: pip install 'nanochat-sweep[hopper]'"
    missing = version_problem("flash-attn-4", None)
    assert missing == "flash-attn-4 is not installed: pip install 'nanochat-sweep[hopper]'"


def test_a_cpu_has_no_use_for_them() -> None:
    assert unusable("flash-attn-4", torch.device("cpu")) == "there is no GPU"


def test_other_cards_are_told_which_ones_they_are_for() -> None:
    assert capability_problem((9, 0)) is None
    told = capability_problem((8, 0))
    assert told == "they are for compute capability 9.0 (Hopper), and this GPU's is 8.0"


def test_the_extra_installs_the_versions_that_are_used() -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["hopper"]
    assert sorted(extra) == sorted(f"{library}=={version}" for library, version in VERSIONS.items())
