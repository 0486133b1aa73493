"""Which kernels serve a run: torch's own everywhere, faster ones on Hopper where their libraries are installed."""

from typing import Literal, NamedTuple

import torch

from nanochat.config import KernelsSetting, PrecisionConfig
from nanochat.kernels.hopper import has_triton
from nanochat.machine import kernel_libraries as libraries


class Kernels(NamedTuple):
    """The kernels of a model; those of attention are chosen apart (`model.attention`)."""

    products: Literal["torch", "quack"]  # of the experts, and of everything in FP8
    own: bool  # the loss, the tables' gradients and the router's product by kernels of this package

    def makes_fp8(self, precision: PrecisionConfig) -> bool:
        """True if FP8 products are QuACK's. Its epilogues restore by one factor, so a scale per row stays torch's."""
        return self.products == "quack" and precision.recipe == "tensorwise"

    @property
    def loss(self) -> str:
        """What the loss and the tables are made by, for rows and reports."""
        return "fused" if self.own else "torch"


PLAIN = Kernels(products="torch", own=False)
_ALIGNMENT = 16  # values; QuACK's copies move whole 16 bytes, which are as many values in FP8


def choose_kernels(setting: KernelsSetting, device: torch.device, widths: tuple[int, ...]) -> Kernels:
    """The fastest kernels that `device` can run on matrices of these widths; torch's own with the setting `torch`."""
    if setting == "torch" or not libraries.is_hopper(device):
        return PLAIN
    aligned = all(width % _ALIGNMENT == 0 for width in widths)
    own = has_triton()
    has_quack = own and aligned and libraries.unusable("quack-kernels", device) is None
    return Kernels(products="quack" if has_quack else "torch", own=own)


def missing_kernels(setting: KernelsSetting, device: torch.device) -> list[str]:
    """What keeps a GPU from its faster kernels, one line each; nothing on a CPU, or if torch's were asked for."""
    if device.type != "cuda" or setting == "torch":
        return []
    return [f"kernels: torch's own in place of faster ones: {problem}" for problem in libraries.problems(device)]
