"""What a sweep file imports."""

from sweeps.spec.parts import Axis, Control, Gate, TailWindow
from sweeps.spec.sweep import Sweep

__all__ = ["Axis", "Control", "Gate", "Sweep", "TailWindow"]
