"""`gptlab compare ... ngram=`: what counting alone reaches."""

import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from conftest import TEXTS, TINY, Result
from gptlab.comparison.ngram import ALPHAS, ngram_loss

Command = Callable[..., Result]

KNOWN = {1: 3.347, 2: 2.482, 3: 2.046, 4: 1.779}
"""TinyShakespeare's characters, the last tenth held out."""


def test_a_bigram_is_counted_with_alpha() -> None:
    train, val = np.array([0, 1, 0, 1, 0, 2] * 50), np.array([0, 1, 0, 2, 2])

    def by_hand(train: np.ndarray, text: np.ndarray, alpha: float) -> float:
        pairs, firsts = Counter(pairwise(train.tolist())), Counter(train[:-1].tolist())
        shares = [(pairs[pair] + alpha) / (firsts[pair[0]] + 3 * alpha) for pair in pairwise(text.tolist())]
        return -sum(map(math.log, shares)) / len(shares)

    n_fit = int(0.9 * len(train))
    chosen = min(ALPHAS, key=lambda alpha: by_hand(train[:n_fit], train[n_fit:], alpha))
    assert ngram_loss(train, val, order=2, vocab_size=3) == pytest.approx(by_hand(train, val, chosen), abs=1e-9)


@pytest.mark.parametrize("order", [3, 6])
def test_a_text_that_is_shorter_than_the_order_is_refused(order: int) -> None:
    with pytest.raises(ValueError, match="too few tokens"):
        ngram_loss(np.arange(20) % 3, np.array([0, 1]), order=order, vocab_size=3)


@pytest.mark.skipif(not (TEXTS / "tinyshakespeare.txt").is_file(), reason="the text is not beside the checkout")
def test_the_known_floors_of_shakespeare() -> None:
    _, tokens = np.unique(list((TEXTS / "tinyshakespeare.txt").read_text()), return_inverse=True)
    n_train = int(0.9 * len(tokens))
    for order, loss in KNOWN.items():
        found = ngram_loss(tokens[:n_train], tokens[n_train:], order=order, vocab_size=65)
        assert found == pytest.approx(loss, abs=0.003), order


def test_compare_draws_and_prints_them(gptlab: Command, workplace: Path, tiny_run: Path) -> None:
    result = gptlab("compare", str(tiny_run), "ngram=1,2", "to=floors.svg")
    assert result.status == 0, result.err
    assert "2-gram" in Path("floors.svg").read_text()
    assert "1-gram: " in result.out
    for ngram, words in {
        "0": "must be whole numbers from 1",
        "two": "whole numbers",
        "40": "possible n-grams are too many to count",
        "200": "possible n-grams are too many to count",
    }.items():
        refused = gptlab("compare", str(tiny_run), f"ngram={ngram}")
        assert (refused.status, words in refused.err) == (2, True), refused.err
    assert gptlab("train", *TINY, "run_dir=words", "tokenizer=words").status == 0
    assert "the tokenizers" in gptlab("compare", str(tiny_run), "words", "ngram=1", "metric=val_loss").err
