"""Scores made of accuracies, and their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import NormalDist, fmean, stdev

from lsa_lightning.utils.checks import integer, number, sequence


def robustness_generalization_score(accuracies: Iterable[float]) -> float:
    """R&G: the sum of the accuracies over the columns of eps, clean included.

    Args:
        accuracies: accuracies in percent, each in [0, 100], one per eps (eps = 0 is the clean accuracy).

    Returns:
        The sum, in [0, 100 * number of columns].

    Raises:
        ValueError: if there is no accuracy or one lies outside [0, 100].

    Example:
        >>> round(robustness_generalization_score([98.82, 82.1, 47.2, 17.87, 6.96, 4.25]), 2)
        257.2

    Source: arXiv 2202.02626, the R&G column of its Tables 2 to 4.
    """
    return math.fsum(sequence("robustness_generalization_score", "accuracies", accuracies, number, low=0, high=100))


def wilson_interval(hits: int, samples: int, confidence: float = 0.95) -> tuple[float, float]:
    r"""Wilson's score interval of a share, in percent.

    .. math:: \frac{\hat p + z^2 / 2n \pm z \sqrt{\hat p (1 - \hat p) / n + z^2 / 4n^2}}{1 + z^2 / n}

    Unlike :math:`\hat p \pm z\,\mathrm{se}` it stays inside [0, 100] and does not shrink to a point at 0 or all hits.

    Args:
        hits: number of hits, 0 to ``samples``.
        samples: n >= 1.
        confidence: coverage in (0, 1).

    Returns:
        Its ends, in [0, 100].

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> tuple(round(end, 2) for end in wilson_interval(95, 100))
        (88.82, 97.85)

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    samples = integer("wilson_interval", "samples", samples, low=1)
    hits = integer("wilson_interval", "hits", hits, low=0, high=samples)
    confidence = number("wilson_interval", "confidence", confidence, above=0, below=1)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = hits / samples
    center = share + z**2 / (2 * samples)
    half = z * math.sqrt(share * (1 - share) / samples + z**2 / (4 * samples**2))
    scale = 100 / (1 + z**2 / samples)
    low = scale * (center - half) if hits > 0 else 0.0  # where rounding would leave a trace of the exact 0 or 100
    high = scale * (center + half) if hits < samples else 100.0
    return low, high


def t_interval(values: Iterable[float], confidence: float = 0.95) -> tuple[float, float]:
    r"""Student's interval of the mean of independent values, such as one result per seed.

    .. math:: \bar x \pm t_{n-1} \, s / \sqrt n

    with the sample standard deviation s and the quantile :math:`t_{n-1}` at :math:`(1 + \text{confidence}) / 2`.

    Args:
        values: n >= 2 finite numbers.
        confidence: coverage in (0, 1), if the values are normally distributed.

    Returns:
        Its ends, in the unit of the values; a point if all values are equal.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> tuple(round(end, 2) for end in t_interval([95.0, 97.0, 96.0]))
        (93.52, 98.48)

    Source: Student, "The probable error of a mean", Biometrika 6 (1908).
    """
    from scipy.special import stdtrit

    numbers = sequence("t_interval", "values", values, number)
    n = integer("t_interval", "number of values", len(numbers), low=2)
    confidence = number("t_interval", "confidence", confidence, above=0, below=1)
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * stdev(numbers) / math.sqrt(n)
    return fmean(numbers) - half, fmean(numbers) + half
