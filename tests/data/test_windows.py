import pickle
from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from gptlab.data.corpus import TokenFile
from gptlab.data.windows import EvalWindows, WindowDataset
from gptlab.objective.base import IGNORED


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
        assert [part.tolist() for part in windows.batch(np.array([index]))] == [[inputs], [targets]]
    if naive:
        batch = windows.batch(np.arange(len(naive)))
        assert batch[0].tolist() == [inputs for inputs, _ in naive]
        assert batch[1].tolist() == [targets for _, targets in naive]
        assert batch[0].dtype == torch.int64


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
    windows = EvalWindows(tokens, context_length=context_length, stride=stride)
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


def test_tokens_of_a_file_travel_by_place(tmp_path: Path) -> None:
    tokens = np.arange(100_000, dtype=np.uint16)
    tokens.tofile(tmp_path / "tokens.bin")
    part = TokenFile(tmp_path / "tokens.bin", "uint16", 0, len(tokens)).part(70_001, 99_000)
    pickled = pickle.dumps(WindowDataset(part, context_length=8, stride=8))
    assert len(pickled) < 1000
    assert np.array_equal(pickle.loads(pickled).tokens, tokens[70_001:99_000])
    assert np.array_equal(pickle.loads(pickle.dumps(part[5:10])), tokens[70_006:70_011])
