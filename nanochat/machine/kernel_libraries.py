"""Which optional kernel libraries this process can use: QuACK's products and FlashAttention-4, both for Hopper.

They come with the extra `hopper`. Their interfaces still change between releases, so each is used only in the version
that the kernels were measured with. Without them the same model runs on torch's own kernels.
"""

import functools
from importlib import metadata
from typing import Literal

import torch

Library = Literal["quack-kernels", "flash-attn-4"]
VERSIONS: dict[Library, str] = {"quack-kernels": "0.6.5", "flash-attn-4": "4.0.0b36"}
"""The releases that the kernels here were measured with, as `pyproject.toml` pins them."""
HOPPER = (9, 0)
"""The compute capability of H100 and H200, whose matrix instructions no later card has."""


def is_hopper(device: torch.device) -> bool:
    """True if the device is an H100, H200 or another GPU of that generation."""
    return device.type == "cuda" and torch.cuda.is_available() and torch.cuda.get_device_capability(device) == HOPPER


def unusable(library: Library, device: torch.device) -> str | None:
    """Returns why `library` cannot serve `device`, as a phrase for people; None if it can."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return "there is no GPU"
    return capability_problem(torch.cuda.get_device_capability(device)) or version_problem(library, installed(library))


def capability_problem(capability: tuple[int, int]) -> str | None:
    """Returns why a GPU of this compute capability has no use for the libraries; None for Hopper's."""
    if capability == HOPPER:
        return None
    return f"they are for compute capability 9.0 (Hopper), and this GPU's is {capability[0]}.{capability[1]}"


def problems(device: torch.device) -> list[str]:
    """What keeps a GPU from the faster kernels, one phrase each."""
    found = [unusable(library, device) for library in VERSIONS]
    return list(dict.fromkeys(problem for problem in found if problem))


@functools.cache
def installed(library: Library) -> str | None:
    """Returns the installed version of a library, None without one."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def version_problem(library: Library, version: str | None) -> str | None:
    """Returns what is wrong with an installed version and what to do about it; None if it is the one that is needed."""
    wanted = VERSIONS[library]
    if version == wanted:
        return None
    seen = "is not installed" if version is None else f"{version} is installed, {wanted} is needed"
    return f"{library} {seen}: pip install 'nanochat-sweep[hopper]'"
