"""A Markov chain with random transitions: a source whose entropy rate is known exactly."""

import math
from functools import cached_property
from typing import NamedTuple

import numpy as np

from gptlab.data.synthetic import SYMBOLS, Split, Synthetic, check_vocabulary
from gptlab.errors import UserError
from gptlab.training.machine import memory_bytes

BYTES_PER_ENTRY = 48  # of the table, and of what finding its stationary distribution takes
TOLERANCE, MOST_STEPS = 1e-13, 20_000  # of power iteration


class Chain(NamedTuple):
    """A chain over S states, the last `order` symbols as digits of a number to the base V; R symbols may follow each.

    The table is sparse: R is less than V.
    """

    symbols: np.ndarray  # what may follow each state, (S, R)
    probabilities: np.ndarray  # of these, (S, R)
    following: np.ndarray  # the state after each of these, (S, R)
    stationary: np.ndarray  # probability of each state, (S,)


class Markov(Synthetic):
    """The next symbol depends on the `order` symbols before it (Shannon 1948, sections 3 to 7).

    In each state `n_next` symbols are possible, with probabilities from a Dirichlet distribution. Symbol 0 is one of
    them, so from every state the chain can come to the state of zeros and stay there: it has one stationary
    distribution (a chain with one closed class that is aperiodic). Sequences begin in it. The others are one of each
    part of the alphabet, and later parts are larger: as in texts, the n-th symbol is about 1/n as frequent (Zipf).

    A target counts if the context holds all symbols that determine its distribution.

    Args:
        order: k.
        vocab_size: V, the number of symbols.
        n_next: symbols that may follow a state.
        concentration: of the Dirichlet distribution; less makes rows more uneven and the entropy lower.
        rest: as in `Synthetic`.

    Raises:
        ValueError: also if the table of transitions does not fit in memory.
    """

    def __init__(self, *, order: int, vocab_size: int, n_next: int, concentration: float, **rest: int) -> None:
        if order < 1:
            raise ValueError(f"order={order} must be at least 1")
        check_vocabulary(vocab_size)
        if not 2 <= n_next <= vocab_size:
            raise ValueError(f"n_next={n_next} must lie between 2 and vocab_size={vocab_size}")
        if not concentration > 0:
            raise ValueError(f"concentration={concentration} must be more than 0")
        n_states = 2.0 ** min(900.0, order * math.log2(vocab_size))  # no float is larger than 2^1024
        needs, has = n_states * n_next * BYTES_PER_ENTRY / 2**30, (memory_bytes("cpu") or 2**34) / 2**30
        if needs > has:
            raise ValueError(
                f"order={order} with vocab_size={vocab_size} and n_next={n_next} takes a table of {needs:.3g} GiB, "
                f"and this machine has {has:.3g}"
            )
        self.order, self.vocab_size, self.n_next, self.concentration = order, vocab_size, n_next, concentration
        self.alphabet = SYMBOLS[:vocab_size]
        super().__init__(**rest)

    @cached_property
    def chain(self) -> Chain:
        random, n_states = np.random.default_rng(self.seed), self.vocab_size**self.order
        spaced = np.geomspace(1, self.vocab_size, self.n_next).astype(np.int64)
        bounds = np.maximum(spaced, np.arange(1, self.n_next + 1))  # one symbol of each part, and 0
        others = random.integers(bounds[:-1], bounds[1:], size=(n_states, self.n_next - 1))
        symbols = np.concatenate([np.zeros((n_states, 1), dtype=np.int64), others], axis=1)
        probabilities = random.dirichlet(np.full(self.n_next, self.concentration), size=n_states)
        following = np.arange(n_states)[:, None] * self.vocab_size % n_states + symbols
        return Chain(symbols, probabilities, following, self._stationary(probabilities, following))

    def _stationary(self, probabilities: np.ndarray, following: np.ndarray) -> np.ndarray:
        """The distribution over states, (S,), that a step leaves alone, by power iteration. UserError if it is slow."""
        found = np.full(len(following), 1 / len(following))
        for _ in range(MOST_STEPS):
            weights = (found[:, None] * probabilities).ravel()
            before, found = found, np.bincount(following.ravel(), weights, minlength=len(following))
            if np.abs(found - before).sum() < TOLERANCE:
                return found / found.sum()
        raise UserError(f"data.concentration={self.concentration}: the chain forgets too slowly; use a larger value")

    def entropy_rate(self, context_length: int) -> float:
        """Entropy of the next symbol, averaged over the stationary distribution of the states."""
        probabilities = self.chain.probabilities
        log = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
        return float(-(self.chain.stationary * (probabilities * log).sum(axis=1)).sum())

    def draw(self, split: Split, indices: np.ndarray, context_length: int) -> tuple[np.ndarray, np.ndarray]:
        if context_length < self.order:
            raise UserError(f"context_length={context_length} is less than data.order={self.order}")
        chain, random = self.chain, self.uniforms(split, indices, context_length + 1)
        state = np.searchsorted(self._cumulative_stationary, random[:, 0], side="right")
        symbols = np.empty((len(indices), context_length + 1), dtype=np.int64)
        ideal = np.full((len(indices), context_length), np.nan)
        for place in range(self.order):
            symbols[:, place] = state // self.vocab_size ** (self.order - 1 - place) % self.vocab_size
        for place in range(self.order, context_length + 1):
            which = (self._cumulative[state] <= random[:, place, None]).sum(axis=1)
            symbols[:, place] = chain.symbols[state, which]
            ideal[:, place - 1] = -np.log(chain.probabilities[state, which])
            state = chain.following[state, which]
        return symbols, ideal

    @cached_property
    def _cumulative(self) -> np.ndarray:
        """Without the last column, which is 1, (S, R - 1)."""
        return self.chain.probabilities.cumsum(axis=1)[:, :-1]

    @cached_property
    def _cumulative_stationary(self) -> np.ndarray:
        return self.chain.stationary.cumsum()[:-1]
