"""Gradients travel while backward still runs: a bucket is sent as soon as its last gradient is final.

One reduction per optimizer step, in the backward of its last micro-step. Autograd says when a gradient has been
accumulated, also where a product has added it (`kernels.totals`). On a CPU the bucket then goes to gloo's threads at
once. On a GPU a micro-step is recorded as a CUDA graph and replayed, without any Python in between: there the moment is
an event, recorded into the graph, and the host, which is done with launching long before the GPU is done with
computing, queues each bucket's collective behind its event, on a stream next to the graph's. The collectives stay out
of the graph: NCCL's watchdog sees them, so that a rank that is lost ends the others, and one graph serves every
micro-step.

All ranks send in one order, from the model's end to its start; a bucket that is final early waits for its turn. Between
compiled blocks gradients become final block by block; inside of one they all do at its end.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from nanochat.machine.ranks import Handle, Ranks


@dataclass(frozen=True)
class Parcel:
    """One bucket's gradients: `source` (W n) of all ranks becomes `target` (n), the mean of this rank's own part."""

    params: Sequence[nn.Parameter]
    source: Tensor
    target: Tensor


class Reduction:
    """Watches backward, and sends parcels in the given order. In a world of one there is nothing to do or to watch."""

    def __init__(self, ranks: Ranks, parcels: Sequence[Parcel]) -> None:
        self._ranks = ranks
        self.queue = [Watched(parcel, ranks.device) for parcel in parcels] if ranks.world_size > 1 else []
        self._beside = torch.cuda.Stream(ranks.device) if self.queue and ranks.device.type == "cuda" else None
        self._handles: list[Handle] = []
        self._is_last = False
        for watched in self.queue:
            for param in watched.parcel.params:
                param.register_post_accumulate_grad_hook(partial(self._on_gradient, watched))

    @contextmanager
    def micro_step(self, *, is_last: bool) -> Iterator[None]:
        """Around one forward and backward, launched or replayed. The step's last one sends every parcel."""
        for watched in self.queue:
            watched.num_missing = len(watched.parcel.params)
        self._is_last = is_last
        yield
        self._is_last = False
        if is_last:
            self._send_all(after_events=True)

    def handles(self) -> list[Handle]:
        """The collectives of this step, all under way; those that no last micro-step has begun begin now."""
        self._send_all(after_events=False)
        handles, self._handles = self._handles, []
        return handles

    def _on_gradient(self, watched: "Watched", _param: Tensor) -> None:
        watched.num_missing -= 1
        watched.is_final = watched.num_missing == 0
        if watched.event is not None:
            if watched.is_final:
                watched.event.record()
            return
        while self._is_last and self._num_left() and self.queue[len(self._handles)].num_missing == 0:
            self._send(after_event=False)

    def _num_left(self) -> int:
        return len(self.queue) - len(self._handles)

    def _send_all(self, *, after_events: bool) -> None:
        while self._num_left():
            self._send(after_event=after_events)

    def _send(self, *, after_event: bool) -> None:
        """Begins the next parcel: behind its event, else behind all that the current stream has been given."""
        watched = self.queue[len(self._handles)]
        source, target = watched.parcel.source, watched.parcel.target
        if self._beside is None:
            self._handles.append(self._ranks.reduce_scatter_mean(source, target))
            return
        if after_event and watched.is_final and watched.event is not None:
            self._beside.wait_event(watched.event)
        else:
            self._beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._beside):
            self._handles.append(self._ranks.reduce_scatter_mean(source, target))


class Watched:
    """How far one backward is with a parcel. Of a replayed graph it says what was so when that was recorded."""

    def __init__(self, parcel: Parcel, device: torch.device) -> None:
        self.parcel = parcel
        self.num_missing = len(parcel.params)
        self.is_final = False
        # An external event is recorded by each replay of the graph that it was recorded into.
        self.event = torch.cuda.Event(external=True) if device.type == "cuda" else None
