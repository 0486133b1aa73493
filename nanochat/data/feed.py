"""Batches on the device, packed ahead by their own thread.

Reading, tokenizing and packing run in one worker thread, up to a whole optimizer step ahead of the training thread, so
that the device never waits for text. One thread is enough: it packs far more tokens a second than a GPU trains on, and
its heavy parts run without the interpreter's lock. It touches no GPU, because while a CUDA graph is recorded no other
thread may. The training thread copies a packed batch into pinned memory, from where it goes to the GPU in the order of
that thread's own stream: after the micro-step before it, and without the host waiting for either.

How far the thread has run ahead is chance and must not show: with each batch comes the position of its lane behind it,
and the data position of a checkpoint is that of the batches that were served. A resumed run, on whichever rank a lane
is served then, sees exactly the next tokens.
"""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nanochat.data.lanes import Lanes, Position, served_by_all

Batch = tuple[Tensor, Tensor]

_MIN_BATCHES_AHEAD = 8  # a lane tokenizes the documents of several batches at a time
_NUM_PINNED = 4


@dataclass(frozen=True)
class _Packed:
    """A lane's next batch (2, B, T) in host memory, and where the lane is behind it."""

    lane: int
    batch: Tensor
    position: Position


class Feed:
    """Serves this rank's lanes in turn; an optimizer step takes one batch of each. `close` it when done."""

    def __init__(self, lanes: Lanes, device: torch.device) -> None:
        self._lanes = lanes
        self._num_ahead = max(_MIN_BATCHES_AHEAD, len(lanes.my_lanes))
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
        self._upload = Upload(device) if device.type == "cuda" else None
        self._restart()

    def _restart(self) -> None:
        """Begins at the lanes' present position; the worker must be idle."""
        self._served = self._lanes.positions()
        self._num_ordered = self._num_served = 0
        self.ahead: deque[Future[_Packed]] = deque()
        self._next: tuple[_Packed, Batch] | None = None

    @property
    def epoch(self) -> int:
        """The pass over the documents, from 1."""
        return max(position.packing_epoch for position in self._served.values())

    @property
    def served(self) -> int | None:
        """The digest of all tokens that this rank's lanes have served; None if it is not known of one."""
        return served_by_all(position.served for position in self._served.values())

    @property
    def num_micro_steps(self) -> int:
        """Micro-steps of this rank in one optimizer step."""
        return len(self._lanes.my_lanes)

    def prefetch(self) -> None:
        """Sends the batch that `next` will serve on its way to the device, if it is packed."""
        self._order()
        if self._next is None and self.ahead[0].done():
            self.peek()

    def peek(self) -> Batch:
        """What `next` will serve. Raises whatever stopped the loader thread, as often as it is called."""
        self._order()
        if self._next is None:
            packed = self.ahead[0].result()
            self.ahead.popleft()
            inputs, targets = packed.batch if self._upload is None else self._upload(packed.batch)
            self._next = packed, (inputs, targets)
        return self._next[1]

    def next(self) -> Batch:
        """Inputs and targets (B, T) int64 on the device. Raises what `peek` raises."""
        batch = self.peek()
        assert self._next is not None
        packed, self._next = self._next[0], None
        self._served[packed.lane] = packed.position
        self._num_served += 1
        self._order()
        return batch

    def state(self) -> dict[int, dict[str, Any]]:
        """The position of every lane of this rank. Call it between optimizer steps."""
        in_step = self._num_served % self.num_micro_steps
        assert in_step == 0, "the data position is defined between optimizer steps only"
        return self._lanes.state(self._served)

    def load_state(self, states: dict[int, dict[str, Any]]) -> None:
        """Continues from the states of all lanes, of which this rank takes its own."""
        self._drop_ahead()
        self._lanes.load_state(states)
        self._restart()

    def close(self) -> None:
        """Ends the loader thread. Nothing can be served afterwards; the state can still be asked for."""
        self._drop_ahead()
        self._worker.shutdown()

    def _order(self) -> None:
        """Has the worker pack as many batches as can wait."""
        while len(self.ahead) < self._num_ahead:
            lane = self._lanes.my_lanes[self._num_ordered % self.num_micro_steps]
            self.ahead.append(self._worker.submit(self._pack, lane))
            self._num_ordered += 1

    def _pack(self, lane: int) -> _Packed:
        """In the worker thread, which alone touches the lanes while batches are ordered."""
        batch = self._lanes.next_batch(lane)
        return _Packed(lane, batch, self._lanes.position(lane))

    def _drop_ahead(self) -> None:
        wait([future for future in self.ahead if not future.cancel()])
        self.ahead.clear()
        self._next = None


class Upload:
    """Copies to a GPU out of pinned buffers that serve in turn, so that the host does not wait for a copy."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._slots: deque[tuple[Tensor, torch.cuda.Event]] = deque()

    def __call__(self, batch: Tensor) -> Tensor:
        """The batch on the device, usable on the current stream."""
        if len(self._slots) < _NUM_PINNED:
            slot, copied = torch.empty_like(batch, pin_memory=True), torch.cuda.Event()
        else:
            slot, copied = self._slots.popleft()
            copied.synchronize()
        slot.copy_(batch)
        on_device = slot.to(self._device, non_blocking=True)
        copied.record()
        self._slots.append((slot, copied))
        return on_device
