"""Samples: what a model continues with, printed between steps without disturbing them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nanochat.config import with_overrides
from nanochat.evaluation import generate
from nanochat.machine.ranks import Ranks
from nanochat.model import compiling
from nanochat.model.gpt import GPT
from tests.helpers.configs import FP8, tiny_config
from tests.helpers.runs import trained

FP8_BOUNDED = {**FP8, "moe.capacity_factor": 1.0}


@pytest.fixture
def model() -> GPT:
    """In fp32, with all weights random: what starts at zero would hide most of the model."""
    bounded: dict[str, Any] = {"moe.capacity_factor": 1.0}
    config = tiny_config(**bounded)
    torch.manual_seed(0)
    model = GPT(config, "sdpa")
    model.initialize(torch.device("cpu"), torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def test_at_temperature_0_the_best_token_is_picked_and_with_top_k_only_the_best_are_drawn() -> None:
    logits = torch.tensor([0.0, 3.0, 1.0, 2.9])
    draw = torch.Generator().manual_seed(0)
    assert generate.sample_token(logits, 0.0, None) == 1
    assert generate.sample_token(logits, 5.0, 1, draw) == 1
    assert {generate.sample_token(logits, 5.0, 2, draw) for _ in range(50)} == {1, 3}
    assert {generate.sample_token(logits, 5.0, None, draw) for _ in range(200)} == {0, 1, 2, 3}


def test_a_higher_temperature_draws_the_best_token_less_often() -> None:
    logits, draw = torch.tensor([0.0, 1.0]), torch.Generator().manual_seed(0)
    cold, hot = (sum(generate.sample_token(logits, t, None, draw) for _ in range(300)) for t in (0.2, 5.0))
    assert cold > 285
    assert 130 < hot < 200


@torch.no_grad()
def test_any_length_of_text_gives_the_losses_that_the_whole_model_gives(model: GPT) -> None:
    ids = torch.randint(300, (2, 33))
    model.eval()
    losses, _, _ = model(ids[:, :-1], ids[:, 1:].contiguous())
    for num_tokens in (1, 7, 16, 17, 32):  # the window of the first layer is 16
        logits = model.head.logits(model.residual(ids[:, :num_tokens]))
        expected = nn.functional.cross_entropy(logits[:, -1], ids[:, num_tokens], reduction="none")
        torch.testing.assert_close(losses[:, num_tokens - 1], expected, atol=1e-5, rtol=1e-5)


def test_the_best_continuation_is_the_same_every_time_and_goes_on_past_the_context(model: GPT) -> None:
    prompt = list(range(30))
    once, again = (generate.generate(model, prompt, 6) for _ in range(2))
    assert once == again
    assert len(once) == 6
    assert generate.generate(model, [*prompt, *once[:4]], 2) == once[4:]
    assert generate.generate(model, list(range(200, 250)) + prompt + once[:4], 2) == once[4:], "32 tokens are seen"
    assert model.training


def test_samples_are_printed_when_due_and_at_the_end_and_change_no_step(
    small_text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(small_text, **FP8_BOUNDED)
    without, _ = trained(config)
    assert "Sample" not in capsys.readouterr().out
    rows, _ = trained(with_overrides(config, {"eval.sample_every": 3}))
    printed = [line for line in capsys.readouterr().out.splitlines() if "| Sample: " in line]
    assert [line[:10] for line in printed] == ["Step 00003"] * 5 + ["Step 00004"] * 5
    text = json.loads(printed[0].split("| Sample: ")[1])
    assert text.startswith(generate.PROMPTS[0])
    assert len(text) > len(generate.PROMPTS[0])
    assert [row.step for row in rows if "sample" in row.flags] == [3]
    assert [row.loss for row in rows] == [row.loss for row in without]


@pytest.mark.integration
@pytest.mark.usefixtures("fresh_process", "dynamo_alone")
@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_samples_compile_nothing(small_text: Path, mode: str) -> None:
    before = compiling.num_graphs()
    changes: dict[str, Any] = {"schedule.num_steps": 8, "compile.mode": mode, "eval.sample_every": 1}
    rows, _ = trained(tiny_config(small_text, **changes))
    assert compiling.num_graphs() - before == 3, "two kinds of block and the head"
    assert ["recompile" in row.flags for row in rows] == [True] * 6 + [False] * 2


def losses_with_samples(ranks: Ranks, folder: str) -> list[float]:
    every_two: dict[str, Any] = {"eval.sample_every": 2}
    return [row.loss for row in trained(tiny_config(folder, **every_two))[0]]


def test_with_two_ranks_the_other_one_waits(small_text: Path, run_world: Any) -> None:
    first, second = run_world(losses_with_samples, 2, str(small_text))
    assert len(first) == 4
    assert second == [], "rank 0 alone is told"
