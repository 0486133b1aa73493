"""The whole model: its sizes are the formulas', its start is neutral, and what it computes is causal."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nanochat import sizes
from nanochat.config import ModelConfig, TrainConfig, with_overrides
from nanochat.model.gpt import GPT, LOGIT_CAP, Attention
from nanochat.model.moe import ROUTER_STATS
from nanochat.model.roles import UnknownParameterError, role_of
from nanochat.recipes import d12_moe
from tests.helpers.configs import tiny_config

TINY = tiny_config(**{"moe.num_experts": 8})


def _model(config: TrainConfig) -> GPT:
    torch.manual_seed(0)
    model = GPT(config, "sdpa")
    model.initialize(torch.device("cpu"), torch.float32)
    return model


def _shake(model: GPT) -> GPT:
    """As after some training: no matrix is zero any more."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def _batch(batch_size: int = 2) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randint(0, 300, (batch_size, 32)), torch.randint(0, 300, (batch_size, 32))


def test_initialising_sets_every_parameter_and_every_buffer():
    config = with_overrides(TINY, {"moe.router_bias_rate": 0.001})
    with torch.device("meta"):
        unset = GPT(config, "sdpa")
    unset.to_empty(device="cpu")
    for tensor in (*unset.parameters(), *unset.buffers()):
        tensor.data.fill_(7)
    torch.manual_seed(0)
    unset.initialize(torch.device("cpu"), torch.float32)
    torch.manual_seed(0)
    made = GPT(config, "sdpa")
    torch.manual_seed(0)
    made.initialize(torch.device("cpu"), torch.float32)
    expected = {**dict(made.named_parameters()), **dict(made.named_buffers())}
    for name, tensor in (*unset.named_parameters(), *unset.named_buffers()):
        assert torch.equal(tensor, expected[name]), name


def test_a_parameter_without_a_role_is_refused_by_name_before_a_weight_is_drawn_for_it():
    model = GPT(TINY, "sdpa")
    model.get_submodule("blocks.0.attention").register_parameter("sinks", nn.Parameter(torch.empty(4)))
    with pytest.raises(UnknownParameterError, match=r"blocks\.0\.attention\.sinks has no role"):
        model.initialize(torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("every", [1, 2, 5])
@pytest.mark.parametrize("depth", [12, 7])
def test_the_models_parameters_are_the_ones_that_sizes_counts(depth: int, every: int):
    config = with_overrides(d12_moe(num_steps=1), {"model.depth": depth, "moe.every": every})
    with torch.device("meta"):
        named = {name: p.numel() for name, p in GPT(config, "sdpa").named_parameters()}
    by_role = {"wte": 0, "value_embeds": 0, "lm_head": 0, "transformer_matrices": 0, "scalars": 0}
    for name, count in named.items():
        last = role_of(name).name
        roles = {"value_embed": "value_embeds", "residual_scale": "scalars", "embedding_scale": "scalars"}
        by_role[roles.get(last, last if last in by_role else "transformer_matrices")] += count
    counts = sizes.count_params(config)
    assert by_role == {role: getattr(counts, role) for role in by_role}
    assert sum(named.values()) == counts.total


def test_every_second_layer_has_a_value_embedding_and_the_last_layer_sees_everything():
    config = replace(TINY, model=ModelConfig(depth=5, aspect_ratio=16, head_dim=16, seq_len=32, vocab_size=300))
    attentions = [layer for layer in _model(config).modules() if isinstance(layer, Attention)]
    assert [attention.value_embed is not None for attention in attentions] == [True, False, True, False, True]
    assert [attention.window for attention in attentions] == [16, 16, 16, 32, 32]


def test_before_training_every_token_is_about_equally_likely():
    ids, targets = _batch()
    losses, of_routers, stats = _model(TINY)(ids, targets)
    assert losses.shape == (2, 32)
    assert losses.mean().item() == pytest.approx(math.log(300), abs=0.01)
    assert of_routers.balance.item() == pytest.approx(2 * 2, abs=0.2)  # 2 layers, top 2
    assert stats.shape == (2, len(ROUTER_STATS))
    assert stats[:, 1].max() < 1.5, "a router that starts neutral overloads no expert much"


def test_the_same_seed_gives_the_same_weights():
    first, second = _model(TINY).state_dict(), _model(TINY).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_later_token_changes_no_earlier_loss():
    model = _shake(_model(TINY)).eval()
    ids, targets = _batch()
    changed = ids.clone()
    changed[:, 20] = (ids[:, 20] + 1) % 300
    before, after = model(ids, targets)[0], model(changed, targets)[0]
    torch.testing.assert_close(before[:, :20], after[:, :20], rtol=1e-5, atol=1e-6)
    assert (before[:, 20] != after[:, 20]).all()


def test_rows_of_a_batch_do_not_see_each_other():
    model = _shake(_model(TINY)).eval()
    ids, targets = _batch()
    torch.testing.assert_close(model(ids, targets)[0][:1], model(ids[:1], targets[:1])[0], rtol=1e-5, atol=1e-5)


def test_logits_are_capped_and_leave_out_the_padded_vocabulary():
    model = _shake(_model(TINY))
    with torch.no_grad():
        model.head.lm_head.weight.mul_(1e4)
    logits = model.head.logits(torch.randn(2, 32, 64))
    assert logits.shape == (2, 32, 300)
    assert logits.dtype == torch.float32
    assert logits.abs().max() <= LOGIT_CAP


def test_a_position_without_a_target_costs_nothing():
    ids, targets = _batch()
    targets[0, 3] = -1
    losses = _model(TINY)(ids, targets)[0]
    assert losses[0, 3] == 0
    assert (losses == 0).sum() == 1


def test_every_parameter_gets_a_gradient():
    model = _shake(_model(TINY))
    losses, of_routers, _ = model(*_batch())
    (losses.mean() + 0.01 * of_routers.balance).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert without == []


def test_a_model_without_experts_reports_zero_balance_and_statistics():
    losses, of_routers, stats = _model(replace(TINY, moe=None))(*_batch())
    assert torch.isfinite(losses).all()
    assert of_routers.balance == 0
    assert torch.equal(stats, torch.zeros(2, len(ROUTER_STATS)))


def test_router_losses_are_summed_over_the_layers_that_have_experts():
    config = with_overrides(TINY, {"model.depth": 3, "moe.every": 2, "moe.router_z_loss_coeff": 0.1})
    _, of_routers, stats = _model(config)(*_batch())
    assert of_routers.balance.item() == pytest.approx(2 * 2, abs=0.2)
    assert of_routers.z.item() == pytest.approx(2 * math.log(8) ** 2, rel=0.05), "logits near 0 over 8 experts"
    z = of_routers.z.item() / 2
    assert stats[:, len(ROUTER_STATS)].tolist() == pytest.approx([z, 0, z], rel=0.05)


def test_a_models_router_biases_go_by_layer():
    model = _model(with_overrides(TINY, {"model.depth": 3, "moe.every": 2, "moe.router_bias_rate": 0.001}))
    assert {name: bias.shape for name, bias in model.router_biases().items()} == {
        "router_bias.0": (8,),
        "router_bias.2": (8,),
    }
    assert _model(TINY).router_biases() == {}
