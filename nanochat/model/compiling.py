"""torch.compile, one layer at a time, and what it did.

Layers of one kind share one compiled graph, which makes the first step of a deep model as cheap as that of a shallow
one. A graph break is an error, not a slow surprise. How many graphs exist is counted, so that a step in which something
was compiled again can be told from a steady one.

The compiler takes seconds to import, so an uncompiled run never does.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch

from nanochat.config import CompileMode
from nanochat.kernels import grouped, hopper_layers, rotary, totals
from nanochat.model.gpt import GPT

# In training and in evaluation: windowed or not, with a value embedding or not, with experts or not. All share one code
# object, which dynamo's own limit of 8 is for.
_MOST_GRAPHS_OF_LAYERS = 2 * 2 * 2 * 2


def compile_model(model: GPT, mode: CompileMode) -> None:
    """Compiles every layer and the head in place; `none` leaves the model as it is."""
    if mode == "none":
        return
    grouped.prepare_for_compiler()
    hopper_layers.prepare_for_compiler()
    rotary.prepare_for_compiler()
    totals.prepare_for_compiler()
    leave_the_shared_folder()
    # A recompile past dynamo's limit would run the layer uncompiled with only a warning.
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_GRAPHS_OF_LAYERS)
    for module in (*model.blocks, model.head):
        module.compile(dynamic=mode == "dynamic", fullgraph=True)


def leave_the_shared_folder() -> None:
    """Moves what torch keeps below the temporary folder, wherever TORCHINDUCTOR_CACHE_DIR leads, to that folder.

    Among it are precompiled headers, which go into every kernel. Their place has a name that anybody can guess, and
    torch has no setting for it.
    """
    from torch._inductor import codecache
    from torch._inductor.runtime import cache_dir_utils, runtime_utils

    private = cache_dir_utils.cache_dir()
    for module in (cache_dir_utils, runtime_utils, codecache):
        setattr(module, "default_cache_dir", lambda: private)  # noqa: B010
    codecache._HEADER_DIR = os.path.join(private, "precompiled_headers")
    codecache._HEADER_LOCK_DIR = os.path.join(private, "precompiled_headers", "locks")


def uncompile_model(model: GPT) -> None:
    """Undoes `compile_model`: from the next call on, every part runs as it is written."""
    for module in (*model.blocks, model.head):
        module._compiled_call_impl = None


def compile_line(mode: CompileMode) -> str:
    """What the log says about compilation."""
    if mode == "none":
        return "torch.compile disabled [compile_mode=none]"
    return f"torch.compile(dynamic={mode == 'dynamic'}) [compile_mode={mode}]"


def num_graphs() -> int:
    """Graphs that dynamo has compiled in this process so far."""
    return _counted("stats", "unique_graphs")


def cache_state(mode: CompileMode) -> str:
    """How the graphs compiled so far were made: `cold`, `warm` (all from the disk cache), `mixed`; `none` without."""
    hits = _counted("inductor", "fxgraph_cache_hit") + _counted("aot_autograd", "autograd_cache_hit")
    misses = _counted("inductor", "fxgraph_cache_miss") + _counted("aot_autograd", "autograd_cache_miss")
    if mode == "none" or hits + misses == 0:
        return "none"
    if misses == 0:
        return "warm"
    return "cold" if hits == 0 else "mixed"


def _counted(kind: str, name: str) -> int:
    """One of dynamo's counters; 0 where nothing has imported it."""
    utils: Any = sys.modules.get("torch._dynamo.utils")
    return 0 if utils is None else utils.counters[kind][name]


def compile_cache_folder() -> Path:
    """Where compiled graphs are kept between processes."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return Path(cache_dir())
