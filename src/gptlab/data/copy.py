"""A random string, and the same string again."""

import math

import numpy as np

from gptlab.data.synthetic import SYMBOLS, Split, Synthetic, check_vocabulary

SEPARATOR = "|"


class Copy(Synthetic):
    """`a string|a string`: the first is random, the second is determined by it.

    All symbols of both are targets, not the separator. The string takes half of the context.

    Args:
        vocab_size: V, symbols besides the separator.
        rest: as in `Synthetic`.
    """

    def __init__(self, *, vocab_size: int, **rest: int) -> None:
        check_vocabulary(vocab_size)
        self.vocab_size, self.alphabet = vocab_size, SYMBOLS[:vocab_size] + SEPARATOR
        super().__init__(**rest)

    def draw(self, split: Split, indices: np.ndarray, context_length: int) -> tuple[np.ndarray, np.ndarray]:
        n = max(1, context_length // 2)
        string = (self.uniforms(split, indices, n) * self.vocab_size).astype(np.int64)  # (B, n)
        separator = np.full((len(indices), 1), self.vocab_size)
        known = np.array([math.log(self.vocab_size)] * (n - 1) + [math.nan] + [0.0] * n)
        return np.concatenate([string, separator, string], axis=1), np.tile(known, (len(indices), 1))

    def entropy_rate(self, context_length: int) -> float:
        n = max(1, context_length // 2)
        return (n - 1) * math.log(self.vocab_size) / (2 * n - 1)
