"""Bits per byte: checked by hand, over all ranks, dropless, and leaving training as it was."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nanochat.config import TrainConfig, with_overrides
from nanochat.data import corpus as dataset
from nanochat.data import tokenizer
from nanochat.data.lanes import Lanes
from nanochat.data.shards import write_shard
from nanochat.evaluation.loss import bits_per_byte
from nanochat.machine.ranks import Ranks
from nanochat.model.gpt import GPT
from tests.helpers.configs import tiny_config

CONFIG = tiny_config(**{"moe.num_experts": 8, "moe.capacity_factor": 0.5})


def _model(config: TrainConfig = CONFIG) -> GPT:
    torch.manual_seed(0)
    model = GPT(config, "sdpa")
    model.initialize(torch.device("cpu"), torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def _validation(folder: str | Path, ranks: Ranks) -> tuple[Lanes, Tensor]:
    corpus = dataset.open_folder(folder)
    tokens = tokenizer.load(corpus)
    sizes = {"num_lanes": ranks.world_size, "batch_size": 2, "seq_len": 32}
    lanes = Lanes(corpus, tokens, split="val", rank=ranks.rank, world_size=ranks.world_size, **sizes)
    return lanes, torch.tensor(tokens.token_bytes())


ALONE = Ranks(0, 1, torch.device("cpu"))


def test_it_is_the_loss_in_bits_over_the_bytes_of_the_targets(small_text: Path):
    lanes, token_bytes = _validation(small_text, ALONE)
    model = _model()
    value = bits_per_byte(model, lanes, token_bytes, num_tokens=128, ranks=ALONE)
    lanes.reset()
    nats, num_bytes = 0.0, 0
    for _ in range(2):
        inputs, targets = lanes.next_batch(0)
        losses = model.eval()(inputs, targets)[0]
        for loss, target in zip(losses.flatten().tolist(), targets.flatten().tolist(), strict=True):
            if target < 256:  # a byte; BOS and the unused ids stand for none
                nats, num_bytes = nats + loss, num_bytes + 1
    assert 0 < num_bytes < 128
    assert value == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-6)


def test_empty_documents_alone_have_no_bits_per_byte(small_text: Path, tmp_path: Path):
    (tmp_path / "tokenizer").symlink_to(small_text / "tokenizer")
    write_shard(tmp_path / "0.parquet", [["some text"]])
    write_shard(tmp_path / "1.parquet", [[""] * 5000 + ["text that is not reached"]])
    lanes, token_bytes = _validation(tmp_path, ALONE)
    assert math.isnan(bits_per_byte(_model(), lanes, token_bytes, num_tokens=64, ranks=ALONE))


def test_it_starts_from_the_first_document_every_time_and_leaves_the_model_training(small_text: Path):
    lanes, token_bytes = _validation(small_text, ALONE)
    model = _model()
    first = bits_per_byte(model, lanes, token_bytes, num_tokens=100, ranks=ALONE)
    assert model.training
    assert all(block.training for block in model.blocks)
    assert bits_per_byte(model, lanes, token_bytes, num_tokens=100, ranks=ALONE) == first
    assert all(p.grad is None for p in model.parameters())


def test_the_capacity_of_training_makes_no_difference(small_text: Path):
    lanes, token_bytes = _validation(small_text, ALONE)
    exact = _model(with_overrides(CONFIG, {"moe.capacity_factor": None}))
    bounded = bits_per_byte(_model(), lanes, token_bytes, num_tokens=64, ranks=ALONE)
    assert bounded == bits_per_byte(exact, lanes, token_bytes, num_tokens=64, ranks=ALONE)


def test_it_reads_the_text_once_however_many_tokens_are_asked_for(small_text: Path):
    lanes, token_bytes = _validation(small_text, ALONE)
    model = _model()
    everything = bits_per_byte(model, lanes, token_bytes, num_tokens=2**62, ranks=ALONE)
    position = lanes.position(0)
    assert position.packing_epoch == 2
    assert everything == bits_per_byte(model, lanes, token_bytes, num_tokens=2**61, ranks=ALONE)
    assert lanes.position(0).num_read == position.num_read
    assert bits_per_byte(model, lanes, token_bytes, num_tokens=128, ranks=ALONE) != everything


def evaluate(ranks: Ranks, folder: str) -> float:
    lanes, token_bytes = _validation(folder, ranks)
    return bits_per_byte(_model(), lanes, token_bytes, num_tokens=128, ranks=ranks)


def test_all_ranks_get_the_mean_over_all_their_tokens(small_text: Path, run_world):
    together = run_world(evaluate, 2, str(small_text))
    assert together[0] == together[1]
    parts = []
    for rank in (0, 1):  # each alone reads its own half of the documents
        lanes, token_bytes = _validation(small_text, replace(ALONE, rank=rank, world_size=2))
        inputs, targets = lanes.next_batch(rank)
        with torch.no_grad():
            losses = _model().eval()(inputs, targets)[0]
        weight = token_bytes[targets]
        parts.append(((losses * (weight > 0)).sum().item(), weight.sum().item()))
    expected = sum(nats for nats, _ in parts) / math.log(2) / sum(num_bytes for _, num_bytes in parts)
    assert together[0] == pytest.approx(expected, rel=1e-5)
