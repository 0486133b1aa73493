"""Batches arrive on the GPU whole and in order, however far the host and the loader thread are ahead of it."""

import pytest
import torch

from bench.loader import InLine
from nanochat.data import tokenizer
from nanochat.data.corpus import prepare_embedded
from nanochat.data.feed import Feed
from nanochat.data.lanes import Lanes

pytestmark = pytest.mark.gpu
NUM_BATCHES = 40


def _lanes() -> Lanes:
    corpus = prepare_embedded()
    sizes = {"num_lanes": 4, "batch_size": 16, "seq_len": 1024}
    return Lanes(corpus, tokenizer.load(corpus), split="train", rank=0, world_size=1, **sizes)


def _feed(device: torch.device) -> Feed:
    return Feed(_lanes(), device)


def test_the_benchmarks_control_serves_its_batches_on_the_gpu_too(gpu: torch.device):
    control, plain = InLine(_lanes(), gpu), _feed(torch.device("cpu"))
    for _ in range(6):
        batch = control.next()
        assert batch.device.type == "cuda"
        assert torch.equal(batch.cpu(), torch.stack(plain.next()))
        control.prefetch()
    plain.close()


@pytest.mark.parametrize("prefetches", [True, False])
def test_a_pinned_buffer_is_not_filled_again_before_its_copy_is_done(gpu: torch.device, prefetches: bool):
    feed, plain = _feed(gpu), _feed(torch.device("cpu"))
    work = torch.randn(8192, 8192, device=gpu, dtype=torch.bfloat16)
    arrived = []
    for _ in range(NUM_BATCHES):
        for _ in range(4):
            work = (work @ work).clamp(-1, 1)  # keeps the stream busy, so that copies wait
        inputs, targets = feed.next()
        arrived.append((inputs.clone(), targets.clone()))
        if prefetches:
            feed.prefetch()
    for inputs, targets in arrived:
        expected_inputs, expected_targets = plain.next()
        assert torch.equal(inputs.cpu(), expected_inputs)
        assert torch.equal(targets.cpu(), expected_targets)
    feed.close()
    plain.close()
