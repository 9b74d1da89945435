import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from gptlab.data.corpus import TokenFile
from gptlab.data.windows import EveryTarget, WindowDataset, split
from gptlab.errors import UserError
from gptlab.objective.next_token import IGNORED


def naive_windows(tokens: list[int], context_length: int, stride: int) -> list[tuple[list[int], list[int]]]:
    """The textbook's loop."""
    return [
        (tokens[t : t + context_length], tokens[t + 1 : t + context_length + 1])
        for t in range(0, len(tokens) - context_length, stride)
    ]


@given(st.integers(0, 60), st.integers(1, 12), st.integers(1, 15))
def test_windows_equal_the_textbook_s(n_tokens: int, context_length: int, stride: int) -> None:
    tokens = np.arange(n_tokens, dtype=np.uint16)
    windows = WindowDataset(tokens, context_length=context_length, stride=stride)
    naive = naive_windows(tokens.tolist(), context_length, stride)
    assert len(windows) == len(naive)
    for index, (inputs, targets) in enumerate(naive):
        assert windows[index][0].tolist() == inputs
        assert windows[index][1].tolist() == targets
    if naive:
        batch = windows.batch(np.arange(len(naive)))
        assert batch[0].tolist() == [inputs for inputs, _ in naive]
        assert batch[1].tolist() == [targets for _, targets in naive]
        assert batch[0].dtype == torch.int64


def test_a_window_is_a_view() -> None:
    tokens = np.arange(100, dtype=np.uint16)
    inputs, targets = WindowDataset(tokens, context_length=8, stride=1)[5]
    assert np.shares_memory(inputs, tokens)
    assert np.shares_memory(targets, tokens)


def test_index_past_the_end_is_an_index_error() -> None:
    windows = WindowDataset(np.arange(10), context_length=4, stride=2)
    assert windows[-1][0].tolist() == windows[len(windows) - 1][0].tolist()
    with pytest.raises(IndexError):
        windows[len(windows)]
    assert len(list(windows)) == len(windows)


def naive_strided(tokens: list[int], context_length: int, stride: int) -> list[tuple[list[int], int]]:
    """(what a target has on its left, the target) of every token but the first, one window after the other."""
    seen, end = [], 0
    for start in range(0, len(tokens), stride):
        start = max(0, min(start, len(tokens) - 1 - context_length))  # the last window is full
        for target in range(max(end, start) + 1, min(start + context_length, len(tokens) - 1) + 1):
            seen.append((tokens[start:target], tokens[target]))
        end = max(end, min(start + context_length, len(tokens) - 1))
    return seen


@given(st.integers(2, 80), st.integers(1, 20), st.integers(1, 20), st.integers(1, 7))
def test_every_target_counts_exactly_once(n_tokens: int, context_length: int, stride: int, rows: int) -> None:
    stride = min(stride, context_length)
    tokens = np.arange(n_tokens, dtype=np.uint16)
    windows = EveryTarget(tokens, context_length=context_length, stride=stride)
    counted: list[tuple[list[int], int]] = []
    for first in range(0, len(windows), rows):
        inputs, targets = windows.batch(np.arange(first, min(first + rows, len(windows))))
        assert inputs.shape == targets.shape
        assert inputs.shape[1] == min(context_length, n_tokens - 1)
        for row, position in (targets != IGNORED).nonzero().tolist():
            counted.append((inputs[row, : position + 1].tolist(), int(targets[row, position])))
    assert counted == naive_strided(tokens.tolist(), context_length, stride)
    assert [target for _, target in counted] == list(range(1, n_tokens))
    assert all(len(left) > context_length - stride for left, target in counted if target > context_length)


def test_a_stride_that_leaves_targets_out_and_a_text_without_any_are_refused() -> None:
    for stride in (0, 5):
        with pytest.raises(ValueError, match=f"stride={stride} must lie between 1 and context_length=4"):
            EveryTarget(np.arange(10), context_length=4, stride=stride)
    for n_tokens in (0, 1):
        with pytest.raises(ValueError, match=f"n_tokens={n_tokens}: only a token that follows another"):
            EveryTarget(np.arange(n_tokens), context_length=4, stride=4)


def test_the_bytes_of_a_text_are_those_of_its_targets() -> None:
    windows = EveryTarget(np.array([2, 0, 1, 1]), context_length=2, stride=1)
    assert windows.n_bytes(np.array([1, 10, 100])) == 21


@given(st.integers(4, 400), st.integers(1, 20), st.floats(0.05, 0.9))
def test_no_window_crosses_the_split(n_tokens: int, context_length: int, val_fraction: float) -> None:
    tokens = np.arange(n_tokens, dtype=np.uint16)
    n_val = n_tokens - int(n_tokens * (1 - val_fraction))
    assume(min(n_val, n_tokens - n_val) > context_length)
    train, val = split(tokens, context_length=context_length, stride=1, val_fraction=val_fraction, name="numbers")
    border = n_tokens - len(val.tokens)
    assert train.batch(np.arange(len(train)))[1].max() < border
    assert val.batch(np.arange(len(val)))[0].min() >= border
    assert len(val.tokens) == pytest.approx(n_tokens * val_fraction, abs=1)


def test_too_short_a_text_is_told_in_numbers() -> None:
    with pytest.raises(UserError, match=r"validation part has 10 of 100 tokens .* context_length \+ 1 = 17"):
        split(np.arange(100), context_length=16, stride=16, val_fraction=0.1, name="a poem")


def test_a_slice_of_a_token_file_travels_by_name(tmp_path: Path) -> None:
    tokens = np.arange(100_000, dtype=np.uint16)
    tokens.tofile(tmp_path / "tokens.bin")
    mapped = TokenFile(tmp_path / "tokens.bin", dtype=np.uint16, mode="r", shape=tokens.shape)
    pickled = pickle.dumps(mapped[70_001:])
    assert len(pickled) < 1000
    assert np.array_equal(pickle.loads(pickled), tokens[70_001:])
