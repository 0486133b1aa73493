"""How the kernel libraries for Hopper are set up in a process: once, before their first kernel."""

import functools
import importlib.util
import inspect
import os
from typing import Any

FAST_ACCUMULATION = "fp8_fast_accum"


def has_triton() -> bool:
    """True if Triton is installed, which torch for GPUs brings along."""
    return importlib.util.find_spec("triton") is not None


@functools.cache
def prepare_flash4() -> None:
    """Has FlashAttention-4 keep what it compiles on disk. Once per process, before its first import."""
    os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", "1")


@functools.cache
def prepare_quack() -> None:
    """Sets up QuACK once per process, before the first of its products.

    Its FP8 products add up in two steps by default, which takes two to seven times as long as the matrix unit's own
    accumulation. The choice is a default of the kernel's constructor that no public function passes on, and it is not
    part of the key of QuACK's cache on disk; so the default is changed, and a cache folder for that alone.
    """
    import quack.cache  # pyright: ignore[reportMissingImports]
    from quack.cache.jit import get_cache_path  # pyright: ignore[reportMissingImports]
    from quack.gemm_sm90 import GemmSm90  # pyright: ignore[reportMissingImports]

    quack.cache.CACHE_DIR = str(get_cache_path() / "fast-accumulation")
    default_to_true(GemmSm90, FAST_ACCUMULATION)


def default_to_true(kernel: Any, parameter: str) -> None:
    """Makes an optional parameter of a class' constructor True unless a call says otherwise.

    Raises RuntimeError for a class without such a parameter.
    """
    original = kernel.__init__
    signature = inspect.signature(original)
    if parameter not in signature.parameters:
        raise RuntimeError(
            f"{kernel.__name__} has no parameter {parameter}; the version of QuACK that pyproject.toml pins has it"
        )

    @functools.wraps(original)
    def with_default(self: Any, *args: Any, **kwargs: Any) -> None:
        if parameter not in signature.bind(self, *args, **kwargs).arguments:
            kwargs[parameter] = True
        original(self, *args, **kwargs)

    kernel.__init__ = with_default


def jitted() -> Any:
    """The kernels written in Triton, whose import takes a second."""
    from nanochat.kernels import triton_kernels

    return triton_kernels
