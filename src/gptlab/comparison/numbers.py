"""Results as text."""

import math

HUGE = 1e6


def decimals(value: float, *, digits: int) -> int:
    """How many of them show so many digits of this value.

    >>> decimals(4.21349, digits=4), decimals(67.3149, digits=4), decimals(12345.6, digits=4), decimals(0.03, digits=4)
    (3, 2, 0, 5)
    """
    return max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else digits - 1


def number(value: float, *, behind: int) -> str:
    """With so many decimals.

    >>> number(4.21349, behind=3), number(12345.6, behind=0), number(3e12, behind=3)
    ('4.213', '12,346', '3e+12')
    """
    return f"{value:,.{behind}f}" if abs(value) < HUGE else f"{value:.4g}"


def plus_minus(spread: float | None, *, behind: int) -> str:
    """A spread with so many decimals; nothing where there is none.

    >>> plus_minus(0.01234, behind=3), plus_minus(None, behind=3)
    ('± 0.012', '')
    """
    return "" if spread is None else f"± {number(spread, behind=behind)}"
