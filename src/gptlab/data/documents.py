"""Prompts and their answers as rows of tokens: padded on the right, or several in a row."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gptlab.objective.base import IGNORED


class Document(NamedTuple):
    """A prompt and its answer as tokens."""

    ids: list[int]
    n_prompt: int  # tokens of the prompt
    n_uncut: int  # tokens before it was cut


class Rows:
    """Documents as rows of `context_length` tokens or less, one each, or packed: several that do not see each other.

    If `mask_prompt`, only answers are targets: by position, whatever the texts spell.
    """

    def __init__(self, documents: Sequence[Document], context_length: int, *, mask_prompt: bool, pack: bool) -> None:
        self.documents, self.mask_prompt, self.is_packed = documents, mask_prompt, pack
        lengths = [len(document.ids) - 1 for document in documents]
        self._rows = packed(lengths, context_length) if pack else [[index] for index in range(len(documents))]

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: np.ndarray) -> tuple[Tensor, ...]:
        """Inputs and targets, (B, T) int64; of packed rows also the number of each token's document, 0 for padding."""
        rows = [[self.documents[i] for i in self._rows[index]] for index in (indices if len(indices) else [0])]
        inputs = _padded([[id_ for one in row for id_ in one.ids[:-1]] for row in rows], 0)
        targets = _padded([[id_ for one in row for id_ in self._targets(one)] for row in rows], IGNORED)
        if len(indices) == 0:
            targets = torch.full_like(targets, IGNORED)
        if not self.is_packed:
            return inputs, targets
        return inputs, targets, _padded([[n for n, one in enumerate(row, 1) for _ in one.ids[1:]] for row in rows], 0)

    def _targets(self, document: Document) -> list[int]:
        n_masked = max(0, document.n_prompt - 1) if self.mask_prompt else 0
        return [IGNORED] * n_masked + document.ids[1 + n_masked :]


def _padded(rows: list[list[int]], value: int) -> Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)  # (B, T)


def packed(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of what shares a row of so many tokens, in their order: a row ends before what does not fit.

    >>> packed([3, 6, 9, 1], 10)
    [[0, 1], [2, 3]]
    """
    rows: list[list[int]] = []
    room = -1
    for index, length in enumerate(lengths):
        if length > room:
            rows.append([])
            room = capacity
        rows[-1].append(index)
        room -= length
    return rows
