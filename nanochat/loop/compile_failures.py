"""What a failing torch.compile means for a run: one sentence that says why, and one decision of all ranks.

Compilation is lazy: it fails in the first step, in a layer's forward pass, in the backward pass or in the optimizer's
update, and perhaps on some ranks only. A rank that compiled next to one that did not would be no fair measurement, so
the ranks vote: either all continue compiled, or none.

A failure is the compiler's if one of its exceptions is in the chain, or if it comes out of the compiler's code or out
of code that it generated: kernels can be rejected by the GPU, or find tensors that are not as they were announced.
"""

import traceback

from torch import nn

from nanochat.config import CompileMode
from nanochat.machine.memory import causes, is_out_of_memory
from nanochat.machine.ranks import Ranks
from nanochat.model.compiling import compile_cache_folder
from nanochat.model.gpt import GPT
from nanochat.optimizer.sharded import ShardedOptimizer

_COMPILERS = ("torch._dynamo", "torch._inductor", "torch._functorch", "triton")
_MAX_CAUSE_CHARS = 300


class CompileError(RuntimeError):
    """torch.compile failed: says where, in which mode, why, and what to do next."""


def describe(error: Exception, model: GPT, mode: CompileMode) -> str | None:
    """What failed and why, in the form "torch.compile failed in ...: ..."; None if the compiler is not to blame."""
    chain = list(causes(error))
    if is_out_of_memory(error) or not any(map(_is_compilers, chain)):
        return None
    root = chain[-1]
    cause = f"{type(root).__name__}: {_telling_line(root)}"[:_MAX_CAUSE_CHARS]
    return f"torch.compile failed in {_place(error, model)} with compile.mode {mode!r}: {cause}"


def first_failure(own: str | None, ranks: Ranks) -> str | None:
    """Collective. What failed on the lowest rank on which anything failed, the same on all ranks."""
    failures = ranks.all_gather_object(own)
    return next((f"on rank {rank} {what}" for rank, what in enumerate(failures) if what is not None), None)


def refusal(failure: str) -> CompileError:
    """The error of a run that must not continue uncompiled."""
    return CompileError(
        f"{failure}; fix that, choose another compile.mode ('none' compiles nothing), "
        "or let such a run continue uncompiled with compile.fallback 'none'"
    )


def _is_compilers(error: BaseException) -> bool:
    if type(error).__module__.startswith(_COMPILERS):
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not frames:
        return False
    innermost = frames[-1]
    is_own_code = str(innermost.f_globals.get("__name__", "")).startswith(_COMPILERS)
    return is_own_code or innermost.f_code.co_filename.startswith(str(compile_cache_folder()))


def _telling_line(error: BaseException) -> str:
    """The first line that names an error, as a C++ compiler's output has them, else the first line of all."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line.lower()), lines[0] if lines else "without a message")


def _place(error: Exception, model: GPT) -> str:
    """Which part of the step was at work, by who is `self` along the traceback."""
    names: dict[int, str] = {id(layer): f"layer {i} of {len(model.blocks)}" for i, layer in enumerate(model.blocks)}
    names[id(model.head)] = "the head"
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in names:
            return names[id(owner)]
        if isinstance(owner, ShardedOptimizer):
            return "the optimizer's update"
    return "the backward pass"
