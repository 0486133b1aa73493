"""Batches on the device, one ahead of the step that needs them.

The next micro-batch is packed on the host while the device works on the current one. A batch that is packed but not yet
used belongs to the data position: it is part of its lane's state, so a resumed run sees exactly the next tokens, on
whichever rank the lane is served then.
"""

from typing import Any

import torch
from torch import Tensor

from nanochat.dataloader import Lanes

Batch = tuple[Tensor, Tensor]


class Feed:
    """Serves this rank's lanes in turn; an optimizer step takes one batch of each."""

    def __init__(self, lanes: Lanes, device: torch.device) -> None:
        self._lanes, self._device = lanes, device
        self._turn = 0
        self._ahead: dict[int, Batch] = {}

    @property
    def epoch(self) -> int:
        """The pass over the documents, from 1."""
        return self._lanes.epoch

    @property
    def num_micro_steps(self) -> int:
        """Micro-steps of this rank in one optimizer step."""
        return len(self._lanes.my_lanes)

    def prefetch(self) -> None:
        """Packs the batch that `next` will serve, unless that is done."""
        lane = self._lanes.my_lanes[self._turn]
        if lane not in self._ahead:
            self._ahead[lane] = self._lanes.next_batch(lane)

    def next(self) -> Batch:
        """Inputs and targets (B, T) int64 on the device."""
        self.prefetch()
        batch = self._ahead.pop(self._lanes.my_lanes[self._turn])
        self._turn = (self._turn + 1) % self.num_micro_steps
        if self._device.type != "cuda":
            return batch
        inputs, targets = (t.pin_memory().to(self._device, non_blocking=True) for t in batch)
        return inputs, targets

    def state(self) -> dict[int, dict[str, Any]]:
        """The position of every lane of this rank. Call it between optimizer steps."""
        assert self._turn == 0, "the data position is defined between optimizer steps only"
        states = self._lanes.state()
        for lane, batch in self._ahead.items():
            states[lane] = states[lane] | {"ahead": tuple(t.clone() for t in batch)}
        return states

    def load_state(self, states: dict[int, dict[str, Any]]) -> None:
        """Goes on from the states of all lanes, of which this rank takes its own."""
        self._lanes.load_state(states)
        self._turn = 0
        self._ahead = {lane: states[lane]["ahead"] for lane in self._lanes.my_lanes if "ahead" in states[lane]}
