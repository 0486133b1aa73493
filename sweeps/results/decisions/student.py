"""Student's t, the chi-squared and the binomial distribution, through scipy, with plain numbers."""

# scipy is typed in parts only.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false

from scipy import stats


def upper_quantile(level: float, df: float) -> float:
    """The value that t with `df` degrees of freedom exceeds with probability `level`."""
    return float(stats.t.isf(level, df))


def upper_tail(value: float, df: float) -> float:
    """The probability that t with `df` degrees of freedom exceeds `value`."""
    return float(stats.t.sf(value, df))


def upper_limit_of_sd(sd: float, df: float, level: float) -> float:
    """What the true standard deviation exceeds with probability `level` only, if `sd` with `df` was estimated."""
    return sd * float((df / stats.chi2.isf(1 - level, df)) ** 0.5)


def binomial_lower_limit(num_hits: int, num_draws: int, level: float) -> float:
    """The smallest probability under which so many hits or more happen with probability `level` (Clopper, Pearson)."""
    return float(stats.beta.ppf(level, num_hits, num_draws - num_hits + 1)) if num_hits else 0.0
