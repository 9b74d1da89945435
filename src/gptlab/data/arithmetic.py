"""Sums of two numbers, written in digits."""

import string

import numpy as np

from gptlab.data.shuffle import permute
from gptlab.data.synthetic import Split, Synthetic
from gptlab.errors import UserError

MOST_DIGITS = 9  # the number of a pair is an int64
PLUS, EQUALS = 10, 11


class Arithmetic(Synthetic):
    """`037+964=1001`: two numbers of `n_digits` digits and their sum, whose digits are the targets.

    No pair of numbers is in both splits. The training split is finite: all pairs but those of the validation.

    Args:
        n_digits: of each number, with leading zeros; the sum has one more.
        rest: as in `Synthetic`.
    """

    alphabet = string.digits + "+="

    def __init__(self, *, n_digits: int, **rest: int) -> None:
        if not 1 <= n_digits <= MOST_DIGITS:
            raise ValueError(f"n_digits={n_digits} must lie between 1 and {MOST_DIGITS}")
        self.n_digits = n_digits
        super().__init__(**rest)
        self.n_train = 100**n_digits - self.n_val
        if self.n_train < 1:
            raise ValueError(f"n_val={self.n_val} must be less than the {100**n_digits:,} pairs of {n_digits} digit(s)")

    def draw(self, split: Split, indices: np.ndarray, context_length: int) -> tuple[np.ndarray, np.ndarray]:
        n = self.n_digits
        if context_length < (least := 3 * n + 2):
            raise UserError(f"context_length={context_length} is too short: data.n_digits={n} takes {least}")
        places = indices if split == "val" else indices + self.n_val
        pairs = permute(places, 100**n, seed=self.seed, epoch=0)
        first, second = pairs // 10**n, pairs % 10**n
        signs = np.full((2, len(indices), 1), [[[PLUS]], [[EQUALS]]])
        parts = [_digits(first, n), signs[0], _digits(second, n), signs[1], _digits(first + second, n + 1)]
        ideal = np.zeros((len(indices), 3 * n + 2))
        ideal[:, : 2 * n + 1] = np.nan
        return np.concatenate(parts, axis=1), ideal

    def entropy_rate(self, context_length: int) -> float:
        """Each digit of a sum is determined."""
        return 0.0


def _digits(numbers: np.ndarray, n: int) -> np.ndarray:
    """The last n decimal digits, the highest first, (B, n)."""
    return numbers[:, None] // 10 ** np.arange(n)[::-1] % 10
