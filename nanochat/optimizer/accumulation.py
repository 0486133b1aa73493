"""How precisely the gradients of a step's micro-steps are added up on a rank: in bf16 for a few, in fp32 for many.

A sum in bf16 keeps 8 bits. Once it is 256 times as large as what is added, it no longer grows; long before that, what
is lost is more than the gradient's own rounding. Up to MOST_IN_BF16 micro-steps a matrix' sum keeps 45 dB. More are
added up in fp32, which takes two more bytes per parameter and two more passes over each gradient.
"""

MOST_IN_BF16 = 16


def adds_in_fp32(num_micro_steps: int) -> bool:
    """True if one rank has so many micro-steps in an optimizer step that bf16 would lose too much."""
    return num_micro_steps > MOST_IN_BF16
