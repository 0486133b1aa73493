"""One optimizer step of one rank: micro-steps into the gradient buffers, then the update.

On a GPU a micro-step (forward, backward, accumulation, statistics) is recorded once as a CUDA graph and replayed: a
deep, narrow model is otherwise bound by how fast the host can launch its thousands of kernels. That is sound here
because nothing in a micro-step depends on the host: shapes are fixed, gradients are added in place into buffers that
never move, FP8 copies of weights are refreshed in place, and the statistics stay on the device. All compile modes are
recorded alike, so they differ in their kernels, not in how these are launched.

With peers, a step's last micro-step also sends its gradients as they become final; `reduction` says how a recorded one
does that. Marks between the parts say where the time goes (`phases`).
"""

from typing import Any

import torch
from torch import Tensor

from nanochat.loop import compile_failures
from nanochat.loop.setup import Run
from nanochat.metering.meter import Meter, RankStep
from nanochat.model import compiling
from nanochat.model.moe import stat_names
from nanochat.model.router_bias import RouterBias
from nanochat.optimizer import schedule
from nanochat.optimizer.sharded import Mark, unmarked

_EAGER_UPDATES = 2
_EAGER_MICRO_STEPS = 2  # before recording: they compile, and set up what libraries allocate once


class Stepper:
    """Takes the optimizer steps of a run, one call each."""

    def __init__(self, run: Run) -> None:
        self._run = run
        moe = run.config.moe
        self._meter = Meter(run.device, run.config.model.depth, len(stat_names(moe)))
        self._balance_coeff, self._z_coeff = (moe.balance_loss_coeff, moe.router_z_loss_coeff) if moe else (0.0, 0.0)
        bias_rate = moe.router_bias_rate if moe else 0.0
        self._bias = RouterBias(run.model.routers().values(), bias_rate, run.ranks) if bias_rate > 0 else None
        self.recorded: RecordedMicroStep | None = RecordedMicroStep(self) if run.device.is_cuda else None
        self._update = RecordedUpdate(run) if run.device.is_cuda and run.ranks.world_size == 1 else None
        self._is_tried = run.config.compile.mode == "none"
        self.fallback: str | None = None  # why this run continues uncompiled, though it should not

    def __call__(self, step: int, checkpoint_ms: float = 0.0) -> RankStep:
        """Optimizer step number `step`; returns when the device is done.

        `checkpoint_ms` is how long a save has held up training since the step before; this one reports it.
        """
        run, num_micro_steps, phases = self._run, self._run.feed.num_micro_steps, self._meter.phases
        self._meter.start()
        if not self._is_tried:
            self._try_compiled()
        for index in range(num_micro_steps):
            inputs, targets = run.feed.next()
            phases.mark("data")
            with run.optimizer.micro_step(is_last=index == num_micro_steps - 1):
                (self.recorded or self.micro_step)(inputs, targets)
            phases.mark_micro_step()
            run.feed.prefetch()
        if self._bias is not None:
            self._bias.start()
        run.optimizer.set_rates(
            lr_mult=schedule.lr_multiplier(step, run.num_steps, run.config.schedule),
            momentum=schedule.muon_momentum(step),
            weight_decay=schedule.weight_decay(step, run.num_steps, run.peak_weight_decay),
        )
        active = _update(run, phases.mark) if self._update is None else self._update(self.recorded)
        if self._bias is not None:
            self._bias.finish(active)
        return self._meter.stop(
            active,
            num_micro_steps,
            checkpoint_ms,
            run.config.run.inject_pct,
            grad_square=run.optimizer.own_grad_square,
        )

    def micro_step(self, inputs: Tensor, targets: Tensor) -> None:
        """Forward and backward of (B, T) tokens; gradients and statistics are added to what is there."""
        losses, of_routers, router = self._run.model(inputs, targets)
        loss = losses.mean()
        total = loss + self._balance_coeff * of_routers.balance
        if of_routers.z is not None:
            total = total + self._z_coeff * of_routers.z
        self._meter.phases.mark_forward_end()
        (total / self._run.feed.num_micro_steps).backward()
        self._meter.add(loss.detach(), of_routers.balance.detach(), router)

    def _try_compiled(self) -> None:
        """Collective. Compiles everything by a step that leaves no trace, and takes the failure of any rank.

        A real micro-step could not be taken back: the last one of a step already sends its gradients to other ranks.
        Raises CompileError, or continues uncompiled where the config says so.
        """
        run, own_failure = self._run, None
        try:
            with run.optimizer.micro_step(is_last=False):
                (self.recorded or self.micro_step)(*run.feed.peek())
            if run.val_lanes is not None:
                self._evaluate(*run.feed.peek())
            run.optimizer.rehearse()
            run.device.synchronize()
        except Exception as error:
            own_failure = compile_failures.describe(error, run.model, run.config.compile.mode)
            if own_failure is None:
                raise
        failure = compile_failures.first_failure(own_failure, run.ranks)
        run.model.train()
        run.optimizer.zero_grad()
        for router in run.model.routers().values():
            if router.loads is not None:
                router.loads.zero_()
        self._meter.clear()
        self._meter.phases.start()
        self._is_tried = True
        if failure is None:
            return
        if run.config.compile.fallback == "error":
            raise compile_failures.refusal(failure)
        compiling.uncompile_model(run.model)
        run.optimizer.uncompile_updates()
        self.recorded = RecordedMicroStep(self) if run.device.is_cuda else None
        self.fallback = failure
        if run.ranks.is_first:
            print(f"warning: {failure}; this run continues uncompiled", flush=True)

    @torch.no_grad()
    def _evaluate(self, inputs: Tensor, targets: Tensor) -> None:
        """A forward as in evaluation, whose graphs are other ones."""
        self._run.model.eval()
        self._run.model(inputs, targets)
        self._run.model.train()


def _update(run: Run, mark: Mark) -> Tensor:
    """Moves the weights, clears their gradients and quantises them again; 1.0 on the device, 0.0 if nothing moved."""
    active = run.optimizer.update(mark)
    run.optimizer.zero_grad()
    run.model.refresh_fp8()
    return active


class RecordedUpdate:
    """What follows a step's micro-steps on one GPU, recorded at its third call and replayed from then on."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._stream = torch.cuda.Stream()
        self._num_eager = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._active = torch.empty(0)

    def __call__(self, micro_step: "RecordedMicroStep | None") -> Tensor:
        """1.0 on the device, or 0.0 if nothing has moved; the next step overwrites it.

        Its temporary memory is that of the recorded micro-step, which never runs at the same time.
        """
        if self._graph is None and self._num_eager < _EAGER_UPDATES:
            self._num_eager += 1
            return _update(self._run, unmarked)
        if self._graph is None:
            graph = torch.cuda.CUDAGraph()
            pool = None if micro_step is None else micro_step.pool()
            with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
                self._active = _update(self._run, unmarked)
            self._graph = graph
        self._graph.replay()
        return self._active


class RecordedMicroStep:
    """`Stepper.micro_step`, recorded at its third call and replayed from then on."""

    def __init__(self, stepper: Stepper) -> None:
        self._micro_step = stepper.micro_step
        self._stream = torch.cuda.Stream()
        self._num_eager = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs = self._targets = torch.empty(0)

    @property
    def is_recorded(self) -> bool:
        """True once calls replay the graph."""
        return self._graph is not None

    def pool(self) -> Any:
        """Where its graph has its memory, for graphs that run in turn with it; None before it is recorded."""
        return None if self._graph is None else self._graph.pool()

    def __call__(self, inputs: Tensor, targets: Tensor) -> None:
        if self._graph is None and self._num_eager < _EAGER_MICRO_STEPS:
            self._num_eager += 1
            self._stream.wait_stream(torch.cuda.current_stream())
            try:
                with torch.cuda.stream(self._stream):  # where autograd's nodes will be recorded
                    self._micro_step(inputs, targets)
            finally:  # what was launched before a failure still adds into gradients, which are cleared next
                torch.cuda.current_stream().wait_stream(self._stream)
            return
        if self._graph is None:
            self._graph = self._record(inputs, targets)
        self._inputs.copy_(inputs, non_blocking=True)
        self._targets.copy_(targets, non_blocking=True)
        self._graph.replay()

    def _record(self, inputs: Tensor, targets: Tensor) -> torch.cuda.CUDAGraph:
        self._inputs, self._targets = torch.empty_like(inputs), torch.empty_like(targets)
        self._inputs.copy_(inputs)
        self._targets.copy_(targets)
        graph = torch.cuda.CUDAGraph()
        # Only this thread's calls may break a recording: others may continue reading, saving or watching collectives.
        # What would compile something again, which cannot be recorded, is an error that says what and why.
        with (
            torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
            torch.compiler.set_stance("fail_on_recompile"),
        ):
            self._micro_step(self._inputs, self._targets)
        return graph
