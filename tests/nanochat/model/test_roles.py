"""One table says how every parameter is treated; what is not in it is rejected."""

import dataclasses
import typing

import pytest
import torch

from nanochat.config import LinearsPrecision, OptimConfig, PrecisionConfig, TrainConfig, with_overrides
from nanochat.model.gpt import GPT
from nanochat.model.roles import ROLES, UnknownParameterError, multiplies_in_fp8, role_of
from nanochat.recipes import d12_moe

MIXED = with_overrides(d12_moe(num_steps=1), {"moe.every": 2, "model.depth": 2})


def _names(config: TrainConfig) -> list[str]:
    with torch.device("meta"):
        return [name for name, _ in GPT(config, "sdpa").named_parameters()]


def test_every_parameter_has_a_role_and_every_role_a_parameter():
    assert {role_of(name) for name in _names(MIXED)} == set(ROLES)


def test_a_role_names_one_kind_alone():
    assert len({role.name for role in ROLES}) == len(ROLES)


@pytest.mark.parametrize("name", ["blocks.0.attention.gate.weight", "blocks.0.mlp.w1", "head.q.weight", "q.weight", ""])
def test_a_name_that_no_path_ends_is_refused_also_if_its_last_word_is_known(name: str):
    with pytest.raises(UnknownParameterError, match=f"the parameter {name} has no role"):
        role_of(name)


def test_every_rate_is_a_field_of_the_config():
    assert {role.update.rate for role in ROLES} <= {field.name for field in dataclasses.fields(OptimConfig)}


def test_tables_scalars_router_and_gates_are_never_in_fp8():
    everything = PrecisionConfig(linears="fp8", experts="fp8")
    never = {role.name for role in ROLES if not multiplies_in_fp8(role, everything)}
    assert never >= {"wte", "value_embed", "value_gate", "router", "residual_scale", "embedding_scale"}


@pytest.mark.parametrize("linears", typing.get_args(LinearsPrecision))
def test_experts_follow_their_own_setting_and_linears_theirs(linears: LinearsPrecision):
    def in_fp8(precision: PrecisionConfig) -> set[str]:
        return {role.name for role in ROLES if multiplies_in_fp8(role, precision)}

    without, with_experts = (in_fp8(PrecisionConfig(linears=linears, experts=e)) for e in ("bf16", "fp8"))
    assert with_experts - without == {"w1", "w2"}
    assert (without == set()) == (linears == "bf16")
