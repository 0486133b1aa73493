"""What cards can do at most, by their names: to say how much of it a run used, also one whose log is all there is."""

import re

# Dense bf16 peaks in FLOP/s with accumulation in fp32, by the words of a card's name. Source: vendors' datasheets.
_PEAK_BF16_FLOPS: dict[str, float] = {
    "gb200": 2.5e15,
    "b200": 2.25e15,
    "b100": 1.75e15,
    "gh200": 989e12,
    "h200": 989e12,
    "h200 nvl": 835e12,
    "h100": 989e12,
    "h100 nvl": 835e12,
    "h100 pcie": 756e12,
    "h100 hbm2e": 756e12,  # only the PCIe card has this memory
    "h800": 989e12,
    "h800 pcie": 756e12,
    "h20": 148e12,
    "h20 3e": 148e12,
    "a100": 312e12,
    "a100 pcie": 312e12,
    "a800": 312e12,
    "a800 pcie": 312e12,
    "a40": 149.7e12,
    "a30": 165e12,
    "a10": 125e12,
    "l40s": 362e12,
    "l40": 181e12,
    "l4": 121e12,
    "rtx 4090": 165e12,
}
_SAYS_NOTHING = re.compile(r"nvidia|tesla|geforce|sxm\d?|\d+gb|hbm2|hbm3e?")  # of the peak: maker, socket, memory


def peak_bf16_flops(device_name: str) -> float | None:
    """Dense bf16 FLOP/s of a card by its name as the driver gives it; None for a card that is not in the table.

    Every word counts: a slice of a card (`H100 80GB HBM3 MIG 1g.10gb`), a share of one (`A100-10C`) or a smaller card
    of nearly the same name (`RTX 4090 D`) is another card, and of another speed.
    """
    words = re.split(r"[\s-]+", device_name.lower().strip())
    return _PEAK_BF16_FLOPS.get(" ".join(word for word in words if not _SAYS_NOTHING.fullmatch(word)))
