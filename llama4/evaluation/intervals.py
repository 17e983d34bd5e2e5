"""How sure a share is: Wilson's 95 % interval of `hits` out of `n`.

    centre = (p + z²/2n) / (1 + z²/n)        half = z / (1 + z²/n) · sqrt(p(1 − p)/n + z²/4n²)        p = hits / n, z = 1.96

Unlike p ± 1.96·sqrt(p(1 − p)/n) it stays within 0 and 1 and does not claim certainty of 0 or n hits: 10 of 10 is 72 % to
100 %, 50 of 100 is 40.4 % to 59.6 %.

Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from llama4.errors import InputError

Z = NormalDist().inv_cdf(0.975)  # 1.95996…: 2.5 % lie above it


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The interval's two ends, from 0 to 1. Raises InputError unless 0 <= hits <= n and n >= 1."""
    if n < 1 or not 0 <= hits <= n:
        raise InputError(f"{hits} hits out of {n} are no share: count at least one answer.")
    share, spread = hits / n, Z * Z / n
    centre = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    low = 0.0 if hits == 0 else centre - half  # exactly, where rounding would leave 1e-17
    return low, 1.0 if hits == n else centre + half
