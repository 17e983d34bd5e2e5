"""Every tolerance of the parity tests, in one table, each with its reason. Loosening one needs its cause written here.

    limit = relative * max(1, max|reference|)          max|ours - reference| <= limit

Worked number: logits of at most 4.2 may differ by 4.2e-5 in fp32. The weights of these tests are
large (`random_weights.py`), so that a mistake moves logits by 100 times the limit and more: tests/mutations.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    """How far a result may lie from its reference, as a share of max(1, max|reference|), and why so far."""

    relative: float
    reason: str

    def limit(self, reference: Tensor) -> float:
        """The largest absolute difference that passes against `reference`."""
        largest = float(reference.detach().abs().max()) if reference.numel() else 0.0
        return self.relative * max(1.0, largest)


EXACT = Tolerance(
    0.0,
    "ids, masks, positions, chosen experts and copied weights are not computed in floating point: any difference is one",
)
FP32 = Tolerance(
    1e-5,
    "fp32 has 24 bits (6e-8); sums of up to some hundred terms are taken in another order, through up to eight layers: "
    "1e-6 is typical, and 2.7e-6 the most that was seen in 200 comparisons",
)
QK_NORM_EPS = Tolerance(
    2e-2,
    "a head's mean square after QK norm falls short of 1 by eps / (its mean square before): 1e-5 over 5e-4 and more",
)

# bfloat16: not a distance but a ratio of distances, since 8 bits of mantissa leave no fixed one.
BF16_RATIO = 1.25
BF16_REASON = (
    "relative RMS error against the fp32 reference, over the reference's own in bf16, with the routing forced to the fp32 "
    "reference's (near-ties flip for 0.3 to 0.5 % of tokens a layer, and a flipped token differs by its whole size): the two "
    "programs round in different places, so neither error is always the smaller: 0.90 to 1.11 was seen in 36 comparisons"
)

# A mistake must show: the least that a mutation moves the logits, in units of the fp32 limit.
MUTATION_FACTOR = 100.0
