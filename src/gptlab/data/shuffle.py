"""A permutation of n numbers in constant memory."""

import numpy as np

ROUNDS = 6


def permute(positions: np.ndarray, n: int, *, seed: int, epoch: int) -> np.ndarray:
    """What a shuffle of range(n) has at the given positions: each number once, and no array of n numbers is made.

    A Feistel network: the bits of a number are two halves, and each round adds to one a keyed hash of the other, which
    can be undone whatever the hash is, so the whole is a permutation of [0, 4^h). If a result is not in [0, n), it is
    permuted again until it is (cycle walking), which keeps it a permutation of [0, n).

    The positions are in [0, n) and have any shape; the result has this shape, int64.
    """
    half_bits = max(1, (max(n - 1, 1).bit_length() + 1) // 2)
    keys = np.random.SeedSequence([seed, epoch]).generate_state(ROUNDS, np.uint64)
    values = _feistel(positions.astype(np.uint64), half_bits, keys)
    outside = values >= n
    while outside.any():  # the domain is less than 4 n, so a few turns do
        values[outside] = _feistel(values[outside], half_bits, keys)
        outside = values >= n
    return values.astype(np.int64)


def _feistel(values: np.ndarray, half_bits: int, keys: np.ndarray) -> np.ndarray:
    mask = np.uint64((1 << half_bits) - 1)
    left, right = values >> np.uint64(half_bits), values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    return left << np.uint64(half_bits) | right


def _mix(x: np.ndarray) -> np.ndarray:
    """Every bit of the result depends on every bit of x (the finaliser of splitmix64, Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
