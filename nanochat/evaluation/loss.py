"""Validation loss in bits per byte, which does not depend on the tokenizer.

Evaluation runs in bf16 and routes every token to all its experts, whatever the training precision and capacity.
"""

import math

import torch
from torch import Tensor

from nanochat.data.lanes import Lanes
from nanochat.machine.ranks import Ranks
from nanochat.model.gpt import GPT


@torch.no_grad()
def bits_per_byte(model: GPT, lanes: Lanes, token_bytes: Tensor, num_tokens: int, ranks: Ranks) -> float:
    """Mean over `num_tokens` tokens of the validation split, or over all of it if it has fewer, over all ranks.

    Every lane is read from its start and equally far, or to its end, so a number that a batch of each does not divide
    is rounded up. NaN if these tokens stand for no text, as those of empty documents.

    token_bytes (V,) int64: the bytes a token stands for; targets of 0 bytes (specials) count neither way.
    """
    model.eval()
    lanes.reset()
    nats = torch.zeros((), dtype=torch.float64, device=token_bytes.device)
    num_bytes = torch.zeros((), dtype=torch.int64, device=token_bytes.device)
    tokens_seen = 0
    while tokens_seen < num_tokens:
        unread = [lane for lane in lanes.my_lanes if lanes.position(lane).packing_epoch == 1]
        if not unread:
            break
        for lane in unread:
            inputs, targets = (t.to(token_bytes.device) for t in lanes.next_batch(lane))
            losses, _, _ = model(inputs, targets)  # (B, T)
            weight = token_bytes[targets]  # (B, T)
            nats += (losses.double() * (weight > 0)).sum()
            num_bytes += weight.sum()
            num_read = targets.numel()
        tokens_seen += num_read * len(lanes.my_lanes) * ranks.world_size
    model.train()
    totals = ranks.all_gather_floats([nats.item(), float(num_bytes.item())])
    bytes_of_all = sum(t[1] for t in totals)
    return sum(t[0] for t in totals) / (math.log(2) * bytes_of_all) if bytes_of_all else math.nan
