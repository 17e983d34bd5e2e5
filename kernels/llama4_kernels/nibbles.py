"""Four bits to a number of 16 bits, by a logical and a subtraction: exact, and cheaper than a conversion of integers.

    fp16   0x6400 is 1024, whose last bit is worth 1:   0x6400 | n = 1024 + n      minus 1032 = n - 8
    bf16   0x4300 is 128, whose last bit is worth 1:    0x4300 | n = 128 + n       minus 136 = n - 8

Worked example, n = 11, which stands for 3: bf16 0x430b = 139, and 139 - 136 = 3.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def numbers(bits, KIND: tl.constexpr):
    """n to n - 8 in fp16 or bf16; `bits` int16, n in its last four."""
    if KIND == tl.float16:  # noqa: SIM300
        return (bits | 0x6400).to(tl.float16, bitcast=True) - 1032.0
    else:
        return (bits | 0x4300).to(tl.bfloat16, bitcast=True) - 136.0
