"""Every parameter has one update rule, at the rate that the flags promise."""

import pytest
import torch

from nanochat.config import TrainConfig, with_overrides
from nanochat.loop.parameters import param_specs
from nanochat.model.gpt import GPT
from nanochat.model.roles import UnknownParameterError
from nanochat.optimizer.groups import ParamSpec
from nanochat.recipes import d12_moe


def _specs(config: TrainConfig, total_batch_tokens: int = 2**19) -> dict[str, ParamSpec]:
    with torch.device("meta"):
        model = GPT(config, "sdpa")
    return {spec.name: spec for spec in param_specs(model, config.optim, total_batch_tokens)}


def test_every_parameter_has_exactly_one_spec():
    config = with_overrides(d12_moe(num_steps=1), {"moe.every": 2, "model.depth": 4})
    with torch.device("meta"):
        model = GPT(config, "sdpa")
    specs = param_specs(model, config.optim, 2**19)
    assert [(spec.name, id(spec.param)) for spec in specs] == [(name, id(p)) for name, p in model.named_parameters()]


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest():
    specs = _specs(with_overrides(d12_moe(num_steps=1), {"moe.every": 2, "model.depth": 2}))
    muon = {name for name, spec in specs.items() if spec.kind == "muon"}
    attention = {f"blocks.{layer}.attention.{role}.weight" for layer in (0, 1) for role in ("q", "k", "v", "out")}
    experts = {"blocks.0.mlp.experts.w1", "blocks.0.mlp.experts.w2"}
    mlp = {"blocks.1.mlp.up.weight", "blocks.1.mlp.down.weight"}
    assert muon == attention | experts | mlp | {"blocks.1.attention.value_gate.weight"}
    groups = {spec.group for spec in specs.values() if spec.kind == "adamw"}
    assert groups == {"wte", "value_embed", "lm_head", "router", "residual_scale", "embedding_scale"}


def test_at_width_768_and_the_reference_batch_the_rates_are_the_flags_values():
    specs = _specs(d12_moe(num_steps=1))
    rates = {
        "wte.weight": 0.3,
        "blocks.1.attention.value_embed.weight": 0.3,
        "head.lm_head.weight": 0.004,
        "blocks.0.attention.q.weight": 0.02,
        "blocks.0.mlp.experts.w1": 0.02,
        "blocks.0.residual_scale": 0.005,
        "blocks.0.embedding_scale": 0.5,
    }
    assert {name: specs[name].lr for name in rates} == pytest.approx(rates)
    assert specs["blocks.0.mlp.router.weight"].lr < 0.004


def test_rates_follow_the_batch_and_adamws_tables_the_width():
    narrow = with_overrides(d12_moe(num_steps=1), {"model.depth": 3})
    specs = _specs(narrow, total_batch_tokens=2**17)
    assert specs["wte.weight"].lr == pytest.approx(0.3 * 0.5 * 2)
    assert specs["blocks.0.attention.q.weight"].lr == pytest.approx(0.02 * 0.5)


def test_scalars_and_router_compute_in_fp32_and_the_tables_have_no_master_copy():
    specs = _specs(d12_moe(num_steps=1))
    fp32 = {name.rsplit(".", 1)[-1] for name, spec in specs.items() if spec.dtype == torch.float32}
    assert fp32 == {"weight", "residual_scale", "embedding_scale"}
    assert {n for n, s in specs.items() if s.dtype and n.endswith("weight")} == {
        f"blocks.{layer}.mlp.router.weight" for layer in range(12)
    }
    assert {spec.group for spec in specs.values() if not spec.master} == {"wte", "value_embed"}


def test_a_matrix_without_a_role_is_refused_by_name_instead_of_trained_somehow():
    config = d12_moe(num_steps=1)
    with torch.device("meta"):
        model = GPT(config, "sdpa")
        model.get_submodule("blocks.3.attention").add_module("mixer", torch.nn.Linear(8, 8, bias=False))
    with pytest.raises(UnknownParameterError, match=r"blocks\.3\.attention\.mixer\.weight has no role"):
        param_specs(model, config.optim, 2**19)
