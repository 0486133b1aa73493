"""The states of all random generators of a process, as plain values and tensors."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

_NUM_WORDS = 624


def random_states(device: torch.device) -> dict[str, Any]:
    """Of Python, numpy and torch, on the CPU and on this device."""
    kind, key, position, has_gauss, cached_gaussian = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(key, dtype=np.int64)), position, has_gauss, cached_gaussian),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    """Sets them all. Raises LookupError, TypeError, ValueError or RuntimeError for what is no such state."""
    kind, key, position, *rest = states["numpy"]
    words = np.asarray(key)
    if words.shape != (_NUM_WORDS,) or type(position) is not int or not 0 <= position <= _NUM_WORDS:
        raise ValueError("numpy's generator has another state")  # which numpy itself would not notice
    random.setstate(states["python"])
    np.random.set_state((kind, words.astype(np.uint32), position, *rest))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"], device)
