"""Axes: from values to pixels, round numbers to label them with, and numbers as people read them."""

import math
from dataclasses import dataclass

_HIGHEST_POWER = 300  # of ten on an axis; beyond, a difference of two values may not be a number


@dataclass(frozen=True)
class Scale:
    """From a value to a pixel, linear or logarithmic."""

    low: float
    high: float
    start_px: float
    end_px: float
    log: bool = False

    def px(self, value: float) -> float:
        """The pixel of a value."""
        low, high, v = (math.log10(x) if self.log else x for x in (self.low, self.high, value))
        return self.start_px + (v - low) / (high - low) * (self.end_px - self.start_px)


def linear_ticks(low: float, high: float, num_steps: int = 5) -> list[float]:
    """Round numbers, about `num_steps` steps, that enclose the range; never fewer than two."""
    low, high = max(low, -(10.0**_HIGHEST_POWER)), min(high, 10.0**_HIGHEST_POWER)
    if high <= low:
        low, high = low - (abs(low) or 1) * 0.5, low + (abs(low) or 1) * 0.5
    rough = (high - low) / num_steps
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten (powers alone where that is many) that enclose a positive range."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    steps = (1, 2, 5) if high < low * 1e4 else (1,)
    ladder = [m * 10.0**p for p in powers if abs(p) <= _HIGHEST_POWER for m in steps]
    first = max((i for i, t in enumerate(ladder) if t <= low), default=0)
    last = min((i for i, t in enumerate(ladder) if t >= high), default=len(ladder) - 1)
    return ladder[first : max(last, first + 1) + 1]


def tick_text(value: float) -> str:
    """A tick's number with its thousands parted."""
    return f"{value:,.10g}".replace("-", "\N{MINUS SIGN}")


def inner_ticks(low: float, high: float, num_steps: int = 5) -> list[float]:
    """Round numbers inside the range, its ends included where they are round."""
    slack = (high - low) * 1e-9
    return [t for t in linear_ticks(low, high, num_steps) if low - slack <= t <= high + slack]
