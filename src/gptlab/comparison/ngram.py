"""What counting alone reaches: the loss of n-gram models, a floor under which a model has learned something.

An n-gram model predicts a token from the n - 1 tokens before it: how often it followed them in the training text, with
alpha added to each count (Lidstone smoothing; Jurafsky and Martin, Speech and Language Processing, section 3.6).
"""

import math

import numpy as np

ALPHAS = tuple(10.0**power for power in np.arange(-4, 1.01, 0.25))
HELD_OUT = 0.1
"""Share of the training text on which alpha is chosen."""


def ngram_loss(train: np.ndarray, val: np.ndarray, *, order: int, vocab_size: int) -> float:
    """Nats per token of an add-alpha n-gram model on `val`, counted on `train`.

    Args:
        train, val: token ids, (n,). The first `order` - 1 tokens of `val` are context only.
        order: n; 1 counts tokens without a context.
        vocab_size: V.

    Raises:
        ValueError: if a text is shorter than the order, or if the n-grams cannot be numbered.
    """
    if order * math.log2(vocab_size) >= 63:
        size = f"{vocab_size:,}^{order}, about 10^{order * math.log10(vocab_size):.0f},"
        raise ValueError(f"ngram={order}: {size} possible n-grams are too many to count; use a lower order")
    n_fit = int(len(train) * (1 - HELD_OUT))
    if min(len(train) - n_fit, len(val)) < order:
        raise ValueError(f"ngram={order}: the text has too few tokens")
    held_out = _counts(train[:n_fit], train[n_fit:], order, vocab_size)
    alpha = min(ALPHAS, key=lambda alpha: _loss(*held_out, alpha, vocab_size))
    return _loss(*_counts(train, val, order, vocab_size), alpha, vocab_size)


def _loss(whole: np.ndarray, contexts: np.ndarray, alpha: float, vocab_size: int) -> float:
    """Mean of -ln p, p = (whole + alpha) / (contexts + alpha V)."""
    return float(np.mean(np.log(contexts + alpha * vocab_size) - np.log(whole + alpha)))


def _counts(train: np.ndarray, text: np.ndarray, order: int, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """For each n-gram of a text: how often the training text has it, and how often its first n - 1 tokens."""
    ngrams, seen = _keys(train, order, vocab_size), _keys(text, order, vocab_size)
    return _count(ngrams, seen), _count(ngrams // vocab_size, seen // vocab_size)  # (n,) each


def _keys(tokens: np.ndarray, order: int, vocab_size: int) -> np.ndarray:
    """One number for each n-gram: its tokens as the digits of a number to the base V, the last one least."""
    ids, n = tokens.astype(np.int64), len(tokens) - order + 1
    keys = np.zeros(n, dtype=np.int64)
    for place in range(order):
        keys = keys * vocab_size + ids[place : place + n]
    return keys


def _count(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How often each wanted key is among the keys."""
    known, counts = np.unique(keys, return_counts=True)
    places = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    return np.where(known[places] == wanted, counts[places], 0)
