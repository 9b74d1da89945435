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
    """Batches that hold each token of a validation text as a target exactly once (but the first, which has no past).

    The windows lie end to end. The last one is moved back so that it is full, and what the one before it has counted
    already is left out of its targets.
    """

    def __init__(self, tokens: np.ndarray, *, context_length: int) -> None:
        self.tokens = tokens
        self.context_length = context_length
        self._windows = WindowDataset(tokens, context_length=context_length, stride=1)

    def __len__(self) -> int:
        return -(-(len(self.tokens) - 1) // self.context_length)

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Inputs and targets, (B, T) int64 each."""
        starts = indices * self.context_length
        moved_back = np.maximum(starts - (len(self._windows) - 1), 0)
        inputs, targets = self._windows.batch(starts - moved_back)
        counted_already = np.arange(self.context_length) < moved_back[:, None]  # (B, T)
        return inputs, targets.masked_fill(torch.from_numpy(counted_already), IGNORED)


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
    n_train = int(len(tokens) * (1 - val_fraction))
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
        EveryTarget(parts["validation"], context_length=context_length),
    )
