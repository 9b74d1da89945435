"""Sliding windows over a token array: the inputs, and the same tokens shifted by one as targets."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from gptlab.objective.base import IGNORED


@dataclass(frozen=True, eq=False)
class WindowDataset:
    """Every `stride`-th window of `context_length` tokens that has a target for each of them.

    Window i starts at t = i * stride: its inputs are tokens[t : t+T], its targets tokens[t+1 : t+T+1]. No window is
    stored.

    >>> windows = WindowDataset(np.arange(10, dtype=np.uint16), context_length=4, stride=2)
    >>> len(windows), windows.batch(np.array([1]))
    (3, (tensor([[2, 3, 4, 5]]), tensor([[3, 4, 5, 6]])))
    """

    tokens: np.ndarray  # (n_tokens,), in memory or memory-mapped
    context_length: int  # T
    stride: int  # tokens from one window's start to the next one's

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - self.context_length - 1) // self.stride + 1)

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Inputs and targets, (B, T) int64 each."""
        windows = sliding_window_view(self.tokens, self.context_length + 1)[indices * self.stride]  # (B, T + 1)
        ids = torch.from_numpy(windows.astype(np.int64))
        return ids[:, :-1], ids[:, 1:]


@dataclass(frozen=True, eq=False)
class DocumentWindows:
    """Windows that also number the document of each input token, from 1, so that attention stays within it.

    The objective passes the numbers to the model, whose positions begin anew in each document.

    Args:
        windows: a WindowDataset or EvalWindows.
        eot: id of the end-of-text token.
        leads: whether it stands before each document, as in llm.c's shards, or after it, as in gptlab's own.
        first_token_loss: whether a target may be in another document than its input: its first token, which is the
            end-of-text token if that leads.

    >>> windows = WindowDataset(np.array([1, 2, 0, 3, 4]), context_length=4, stride=4)
    >>> DocumentWindows(windows, eot=0, leads=False, first_token_loss=False).batch(np.array([0]))
    (tensor([[1, 2, 0, 3]]), tensor([[   2,    0, -100,    4]]), tensor([[1, 1, 1, 2]]))
    """

    windows: "WindowDataset | EvalWindows"
    eot: int
    leads: bool
    first_token_loss: bool

    @property
    def tokens(self) -> np.ndarray:
        return self.windows.tokens

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, targets and document numbers, (B, T) int64 each."""
        inputs, targets = self.windows.batch(indices)
        ends = inputs == self.eot
        documents = 1 + ends.cumsum(dim=1) - (0 if self.leads else ends.long())
        if not self.first_token_loss:
            targets = targets.masked_fill(targets == self.eot if self.leads else ends, IGNORED)
        return inputs, targets, documents


class EvalWindows:
    """Windows that hold each token of a text as a target exactly once (except the first, which follows nothing).

    Each window counts the targets that no window before it has counted: with a stride of T a target has from 1 to T
    tokens on its left, with a shorter one at least T - stride + 1 (after the first window). The last window is moved
    back so that it is full. A text shorter than a window is one window.

    >>> val = EvalWindows(np.arange(8), context_length=4, stride=2)
    >>> len(val), val.batch(np.arange(3))[1].tolist()
    (3, [[1, 2, 3, 4], [-100, -100, 5, 6], [-100, -100, -100, 7]])

    There are at least two `tokens` (n_tokens,), and `stride` is at most T, the context length (ValueError).
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
        n_after_the_first = len(self.tokens) - 1 - self.context_length
        return 1 + -(-n_after_the_first // self.stride)

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Inputs and targets, (B, T) int64 each; without indices, one row of which no target counts."""
        if len(indices) == 0:
            inputs, targets = self._windows.batch(np.array([0]))
            return inputs, torch.full_like(targets, IGNORED)
        starts = np.minimum(indices * self.stride, len(self._windows) - 1)
        inputs, targets = self._windows.batch(starts)
        end_of_previous = np.where(indices > 0, (indices - 1) * self.stride + self.context_length, 0)
        counted_already = np.arange(self.context_length) < (end_of_previous - starts)[:, None]  # (B, T)
        return inputs, targets.masked_fill(torch.from_numpy(counted_already), IGNORED)
