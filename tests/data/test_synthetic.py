"""Synthetic sources: what is drawn depends on (seed, split, index) alone, and the ideal loss is the true one."""

import pickle
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import choices, conf_node
from gptlab import build
from gptlab.data.base import PreparedData
from gptlab.data.synthetic import Synthetic
from gptlab.errors import UserError
from gptlab.objective.base import IGNORED
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.char import CharTokenizer

CONTEXT = 20


def sources() -> list[str]:
    nodes = {name: conf_node("data", name) for name in choices("data")}
    targets = {name: build.get_object(node["_target_"]) for name, node in nodes.items()}
    return [name for name, target in targets.items() if issubclass(target, Synthetic)]


def source(name: str, **changes: Any) -> Any:
    node = {key: value for key, value in conf_node("data", name).items() if key != "defaults"}
    return build.construct({**node, **changes}, key="data")


def prepared(name: str, context_length: int = CONTEXT, **changes: Any) -> PreparedData:
    data = source(name, **changes)
    return data.prepare(CharTokenizer.train, context_length=context_length, progress=lambda _, pieces: pieces)


@pytest.mark.parametrize("name", sources())
def test_an_example_depends_on_its_index_alone(name: str) -> None:
    data, other = prepared(name), pickle.loads(pickle.dumps(prepared(name)))
    assert data.fingerprint == other.fingerprint != prepared(name, seed=2).fingerprint
    indices = np.array([5, 0, 2**20 % len(data.train)])
    together = data.train.batch(indices)
    for place, index in enumerate(indices):
        for part, alone in zip(together, other.train.batch(np.array([index])), strict=True):
            assert torch.equal(part[place : place + 1], alone)
    assert not torch.equal(together[0], data.val.batch(indices)[0])


@pytest.mark.parametrize("name", sources())
def test_targets_are_the_next_inputs_and_count_where_an_ideal_loss_is_known(name: str) -> None:
    data: Any = prepared(name)
    inputs, targets, ideal = data.val.with_ideal_losses(np.arange(50))
    assert inputs.shape[1] <= CONTEXT
    counts = targets != IGNORED
    assert torch.equal(counts, ~ideal.isnan())
    assert torch.equal(targets[:, :-1][counts[:, :-1]], inputs[:, 1:][counts[:, :-1]])
    assert data.val.batch(np.array([], dtype=np.int64))[1].eq(IGNORED).all()


@pytest.mark.parametrize("context_length", [16, 33])
@pytest.mark.parametrize("name", sources())
def test_the_mean_ideal_loss_of_many_targets_is_the_entropy_rate(name: str, context_length: int) -> None:
    data: Any = prepared(name, context_length, n_val=6000)
    ideal = data.val.with_ideal_losses(np.arange(6000))[2].numpy()
    of_rows = np.nanmean(ideal, axis=1)  # rows are independent, targets of a row are not
    error = of_rows.std() / np.sqrt(len(of_rows))
    assert abs(of_rows.mean() - data.entropy_rate) <= 4 * error + 1e-12


@pytest.mark.parametrize(("order", "vocab_size", "concentration"), [(1, 12, 1.0), (2, 5, 0.3), (3, 3, 1.0)])
def test_a_chain_s_entropy_rate_is_that_of_linear_algebra_and_of_counting(
    order: int, vocab_size: int, concentration: float
) -> None:
    chain = source("markov", order=order, vocab_size=vocab_size, n_next=3, concentration=concentration)
    n_states = vocab_size**order
    matrix = np.zeros((n_states, n_states))
    for state, (symbols, probabilities) in enumerate(zip(chain.chain.symbols, chain.chain.probabilities, strict=True)):
        assert len({*symbols}) == 3
        for symbol, probability in zip(symbols, probabilities, strict=True):
            matrix[state, (state * vocab_size + symbol) % n_states] += probability
    equations = np.concatenate([matrix.T - np.eye(n_states), np.ones((1, n_states))])
    stationary = np.linalg.lstsq(equations, np.eye(n_states + 1)[-1], rcond=None)[0]
    log = np.log(matrix, out=np.zeros_like(matrix), where=matrix > 0)
    rate = chain.entropy_rate(CONTEXT)
    assert rate == pytest.approx(-float((stationary[:, None] * matrix * log).sum()), abs=1e-9)

    sample, _ = chain.draw("train", np.arange(300), 1000)  # 300,000 symbols
    keys: Counter[tuple[int, ...]] = Counter()
    for place in range(order + 1, sample.shape[1] + 1):
        keys.update(map(tuple, sample[:, place - order - 1 : place].tolist()))
    contexts: Counter[tuple[int, ...]] = Counter()
    for ngram, count in keys.items():
        contexts[ngram[:-1]] += count
    counted = [(count, -np.log(count / contexts[ngram[:-1]])) for ngram, count in keys.items()]
    counts, losses = map(np.array, zip(*counted, strict=True))
    mean = float((counts * losses).sum() / counts.sum())
    error = np.sqrt((counts * (losses - mean) ** 2).sum()) / counts.sum()
    bias = 2 * len(contexts) / (2 * counts.sum())  # of counting, at most (Miller 1955)
    assert abs(mean - rate) < 4 * error + bias


def test_a_copy_is_the_string_again() -> None:
    symbols, ideal = source("copy").draw("val", np.arange(30), CONTEXT)
    assert (symbols[:, :10] == symbols[:, 11:]).all()
    assert (symbols[:, 10] == 16).all()
    assert len(np.unique(symbols[:, :10])) == 16
    assert (ideal[:, 10:] == 0).all()
    assert np.isnan(ideal[:, 9]).all()


@given(st.integers(0, 10_000), st.integers(3, 40))
@settings(max_examples=30, deadline=None)
def test_a_value_is_decided_as_soon_as_its_key_has_come_before(index: int, context_length: int) -> None:
    symbols, ideal = source("induction", vocab_size=5).draw("train", np.array([index]), context_length)
    known: dict[int, int] = {}
    for place in range(0, symbols.shape[1], 2):
        key, value = symbols[0, place : place + 2].tolist()
        assert known.setdefault(key, value) == value
        assert ideal[0, place] == pytest.approx(0.0 if key in symbols[0, :place:2] else np.log(5))


def test_sums_are_right_and_no_pair_is_in_both_splits() -> None:
    data = source("arithmetic", n_digits=2, n_val=1000)
    texts: dict[str, set[str]] = {}
    for split, n in (("val", 1000), ("train", 9000)):
        symbols, _ = data.draw(split, np.arange(n), 8)
        texts[split] = {"".join(data.alphabet[symbol] for symbol in row) for row in symbols}
        for text in texts[split]:
            found = re.fullmatch(r"(\d\d)\+(\d\d)=(\d\d\d)", text)
            assert found is not None
            first, second, total = found.groups()
            assert int(total) == int(first) + int(second)
    assert len(texts["val"] | texts["train"]) == 10_000


def test_what_is_not_possible_is_said_in_one_sentence() -> None:
    for name, changes, message in (
        ("markov", {"order": 12}, "takes a table of .* GiB, and this machine has"),
        ("markov", {"n_next": 40}, "n_next=40 must lie between 2 and vocab_size=32"),
        ("arithmetic", {"n_digits": 1}, "n_val=2000 must be less than the 100 pairs of 1 digit"),
        ("copy", {"n_val": 0}, "n_val=0 must be 1 or more"),
    ):
        with pytest.raises(UserError, match=message):
            source(name, **changes)
    with pytest.raises(UserError, match="the chain forgets too slowly"):
        prepared("markov", vocab_size=4, n_next=2, concentration=0.1)
    with pytest.raises(UserError, match=r"context_length=10 is too short: data\.n_digits=3 takes 11"):
        prepared("arithmetic", 10)
    with pytest.raises(UserError, match="does not make one token of each symbol; use char"):
        source("markov", vocab_size=100).prepare(
            BPETokenizer.train(["ab"], vocab_size=257), context_length=8, progress=lambda _, pieces: pieces
        )
