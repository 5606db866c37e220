"""What tuning may be expected to give after so many trials, from one search."""

from collections.abc import Sequence


def expected_after(values: Sequence[float]) -> list[float]:
    """The expected value of the trial that is picked after k = 1 to n trials.

    values: of the n trials, in the order in which the rule prefers them, the best last. Where they are what the rule
    goes by, this is the expected maximum of Dodge et al. (2019, arXiv:1909.03004), eq. 5 and 6; of another scorer it
    shows what going by the rule brings there. The trials stand for the space: k are drawn from them with replacement,
    so the i-th of n is picked with probability (i/n)^k - ((i-1)/n)^k.
    """
    n = len(values)
    return [
        sum(value * ((i / n) ** k - ((i - 1) / n) ** k) for i, value in enumerate(values, 1)) for k in range(1, n + 1)
    ]
