"""Sliding windows over a token array: inputs, and the same moved on by one as targets."""

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor
from torch.utils.data import Dataset

from gptlab.errors import UserError
from gptlab.objective.next_token import IGNORED


class WindowDataset(Dataset):
    """Every `stride`-th window of `context_length` tokens that has a target for each of them.

    Window i begins at t = i * stride: its input is tokens[t : t+T], its target tokens[t+1 : t+T+1]. Nothing is copied
    and nothing is held for each window, so stride 1 costs no more memory than stride T.

    >>> windows = WindowDataset(np.arange(10, dtype=np.uint16), context_length=4, stride=2)
    >>> len(windows), *windows[1]
    (3, array([2, 3, 4, 5], dtype=uint16), array([3, 4, 5, 6], dtype=uint16))

    Args:
        tokens: (n_tokens,), in memory or memory-mapped.
        context_length: T.
        stride: tokens from one window's begin to the next one's.
    """

    def __init__(self, tokens: np.ndarray, *, context_length: int, stride: int) -> None:
        self.tokens = tokens
        self.context_length = context_length
        self.stride = stride

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - self.context_length - 1) // self.stride + 1)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Input and target, (T,) each: views of the token array."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        start = index % len(self) * self.stride
        window = self.tokens[start : start + self.context_length + 1]
        return window[:-1], window[1:]

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Inputs and targets of many windows, gathered in one step: (B, T) int64 each."""
        windows = sliding_window_view(self.tokens, self.context_length + 1)[indices * self.stride]  # (B, T + 1)
        ids = torch.from_numpy(windows.astype(np.int64))
        return ids[:, :-1], ids[:, 1:]


class EveryTarget:
    """Batches that hold each token of a text as a target exactly once (but the first, which has no past).

    A window begins every `stride` tokens. The first counts all of its targets, each later one only those that no
    window before it has: with a stride of T the windows lie end to end, and a target has from 1 to T tokens on its
    left; with a shorter one every target behind the first window has at least T - stride + 1. The last window is moved
    back so that it is full. A text shorter than a window is one window.

    >>> val = EveryTarget(np.arange(8), context_length=4, stride=2)
    >>> len(val), val.batch(np.arange(3))[1].tolist()
    (3, [[1, 2, 3, 4], [-100, -100, 5, 6], [-100, -100, -100, 7]])

    Args:
        tokens: (n_tokens,), two at least.
        context_length: T.
        stride: tokens from one window's begin to the next one's, at most T.

    Raises:
        ValueError: on fewer tokens, or on a stride that would leave targets out.
    """

    def __init__(self, tokens: np.ndarray, *, context_length: int, stride: int) -> None:
        if len(tokens) < 2:
            raise ValueError(f"n_tokens={len(tokens)}: only a token that follows another can be a target")
        if not 1 <= stride <= context_length:
            raise ValueError(f"stride={stride} must lie between 1 and context_length={context_length}")
        self.tokens = tokens
        self.context_length = min(context_length, len(tokens) - 1)
        self.stride = min(stride, self.context_length)
        self._windows = WindowDataset(tokens, context_length=self.context_length, stride=1)

    def __len__(self) -> int:
        n_behind_the_first = len(self.tokens) - 1 - self.context_length
        return 1 + -(-n_behind_the_first // self.stride)

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Inputs and targets, (B, T) int64 each."""
        starts = np.minimum(indices * self.stride, len(self._windows) - 1)
        inputs, targets = self._windows.batch(starts)
        end_of_previous = np.where(indices > 0, (indices - 1) * self.stride + self.context_length, 0)
        counted_already = np.arange(self.context_length) < (end_of_previous - starts)[:, None]  # (B, T)
        return inputs, targets.masked_fill(torch.from_numpy(counted_already), IGNORED)

    def n_bytes(self, byte_lengths: np.ndarray) -> int:
        """UTF-8 bytes of all targets, by those of each id, (V,); some at a time, for there may be billions."""
        targets = self.tokens[1:]
        return sum(int(byte_lengths[targets[start : start + 2**20]].sum()) for start in range(0, len(targets), 2**20))


def split(
    tokens: np.ndarray, *, context_length: int, stride: int, val_fraction: float, name: str
) -> tuple[WindowDataset, EveryTarget]:
    """Training windows and, from the tail of the text, validation windows. No window lies in both.

    Args:
        tokens: (n_tokens,)
        context_length, stride: of the windows.
        val_fraction: share of the tokens that is kept for validation.
        name: of the text, for the message.

    Raises:
        UserError: where a part is too short for a single window.
    """
    n_train = n_for_training(len(tokens), val_fraction=val_fraction)
    parts = {"training": tokens[:n_train], "validation": tokens[n_train:]}
    for part, its_tokens in parts.items():
        if len(its_tokens) < context_length + 1:
            raise UserError(
                f"{name} is too short: its {part} part has {len(its_tokens):,} of {len(tokens):,} tokens "
                f"(data.val_fraction={val_fraction}), one window takes context_length + 1 = {context_length + 1:,}; "
                f"use more text or a smaller context_length"
            )
    return (
        WindowDataset(parts["training"], context_length=context_length, stride=stride),
        EveryTarget(parts["validation"], context_length=context_length, stride=context_length),
    )


def n_for_training(n_tokens: int, *, val_fraction: float) -> int:
    """How many tokens stand before the validation text, which is the tail."""
    return int(n_tokens * (1 - val_fraction))
