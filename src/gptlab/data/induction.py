"""Pairs of symbols whose second is determined by the first: what followed a symbol before follows it again."""

import math

import numpy as np

from gptlab.data.synthetic import SYMBOLS, Split, Synthetic, check_vocabulary


class Induction(Synthetic):
    """`a b c d a b`: pairs of a key and its value. Each sequence maps the keys to values at random, for itself alone.

    Values are the targets. The value of a new key is random; that of a key that has come before is determined. An
    induction head finds it: attention to what followed the same symbol before (Olsson et al. 2022, arXiv:2209.11895).

    Args:
        vocab_size: V, symbols; each may be key and value.
        rest: as in `Synthetic`.
    """

    def __init__(self, *, vocab_size: int, **rest: int) -> None:
        check_vocabulary(vocab_size)
        self.vocab_size, self.alphabet = vocab_size, SYMBOLS[:vocab_size]
        super().__init__(**rest)

    def draw(self, split: Split, indices: np.ndarray, context_length: int) -> tuple[np.ndarray, np.ndarray]:
        n_pairs = (context_length + 1) // 2
        random = (self.uniforms(split, indices, n_pairs + self.vocab_size) * self.vocab_size).astype(np.int64)
        keys, value_of = random[:, :n_pairs], random[:, n_pairs:]  # (B, n_pairs), (B, V)
        pairs = np.stack([keys, np.take_along_axis(value_of, keys, axis=1)], axis=2)
        is_same = keys[:, :, None] == keys[:, None, :]
        is_known = np.tril(is_same, k=-1).any(axis=2)  # (B, n_pairs)
        ideal = np.full((len(indices), 2 * n_pairs - 1), np.nan)
        ideal[:, ::2] = np.where(is_known, 0.0, math.log(self.vocab_size))
        return pairs.reshape(len(indices), -1), ideal

    def entropy_rate(self, context_length: int) -> float:
        """A key is new in pair j with probability (1 - 1/V)^j."""
        new = (1 - 1 / self.vocab_size) ** np.arange((context_length + 1) // 2)
        return float(new.mean() * math.log(self.vocab_size))
