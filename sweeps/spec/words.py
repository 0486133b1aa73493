"""Numbers as people read them: counts with their noun, fixed digits, changes in percent."""

import math

_TOO_LONG_FROM = 1e15  # from here fixed digits say less than a power of ten


def counted(number: int, noun: str) -> str:
    """`1 leg`, `2 legs`, `1,000 legs`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def fixed(value: float, digits: int) -> str:
    """A number with fixed digits after the point; never a negative zero."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= _TOO_LONG_FROM:
        return f"{value:.3g}"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def grouped(value: float, digits: int) -> str:
    """As `fixed`, with thousands separated: `412,346`."""
    text = fixed(value, digits)
    return f"{float(text):,.{digits}f}" if math.isfinite(value) and abs(value) < _TOO_LONG_FROM else text


def one_line(text: str, limit: int = 300) -> str:
    """A stored text as one line that no terminal obeys: without control characters, cut where it is too long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def percent_change(ratio: float) -> str:
    """A ratio as a change in percent: 1.157 is +15.7 %, with one more digit where the change is small."""
    change = (ratio - 1) * 100
    digits = 0 if abs(change) >= 99.95 else 1 if abs(change) >= 0.995 else 2
    text = fixed(change, digits)
    if float(text) == 0:
        return "0 %"
    sign = "" if text.startswith("-") else "+"
    return f"{sign}{text} %".replace("-", "\N{MINUS SIGN}")
