"""Why a GPU's clock is lower than it could be: the names of the driver's bits, and which of them slow a step down.

Bits are NVML's clocks event reasons (https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html).
Under full load a card sits at its power limit, so the cap by software is normal and no reason to doubt a time; heat and
the hardware's own brakes are. Standard library alone, so that results can be read without torch.
"""

REASONS = {
    0x001: "gpu idle",
    0x002: "applications clocks setting",
    0x004: "sw power cap",
    0x008: "hw slowdown",
    0x010: "sync boost",
    0x020: "sw thermal slowdown",
    0x040: "hw thermal slowdown",
    0x080: "hw power brake slowdown",
    0x100: "display clock setting",
    0x200: "board limit",
    0x400: "reliability",
}
FLAG = "throttled"  # of a step in which one of the next was set
SLOWDOWN_BITS = 0x008 | 0x020 | 0x040 | 0x080


def slowdown(bits: int | None) -> int:
    """Those of the bits that stand for a slow-down by heat or by the hardware; 0 if nothing is known."""
    return (bits or 0) & SLOWDOWN_BITS


def reason_names(bits: int) -> tuple[str, ...]:
    """The names of the bits that are set, lowest first; a bit that is not known here by its value."""
    return tuple(REASONS.get(bit, f"{bit:#x}") for bit in (1 << i for i in range(bits.bit_length())) if bits & bit)
