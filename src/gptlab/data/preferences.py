"""Preferences: two answers to an instruction, of which one was chosen."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gptlab.arguments import NonNegative
from gptlab.data.documents import Rows
from gptlab.data.instructions import Instruction, Instructions, Parts
from gptlab.data.table import Row
from gptlab.data.template import Template
from gptlab.tokenizer import Tokenizer


class Preferences(Instructions):
    """A table with the columns instruction, input (may be missing or empty), chosen and rejected.

    A row whose two answers are the same says nothing: it is dropped, after the split. The arguments are those of
    `Instructions`.
    """

    unit, answer = "pair", "chosen"

    def __init__(
        self,
        *,
        path: str,
        template: Template,
        split: Literal["random", "textbook", "column"],
        seed: NonNegative,
        num_workers: NonNegative,
    ) -> None:
        how = {"path": path, "template": template, "split": split, "seed": seed, "num_workers": num_workers}
        super().__init__(**how, mask_prompt=True, pack=False)  # type: ignore[arg-type]

    def parts(self) -> Parts:
        parts = super().parts()
        kept = {name: [one for one in its if one.response != one.rejected] for name, its in parts.items()}
        n_dropped = sum(map(len, parts.values())) - sum(map(len, kept.values()))
        self.note = f"; {n_dropped:,} dropped, whose answers are the same" if n_dropped else ""
        return kept

    def _examples(self, row: Row) -> Iterator[Instruction]:
        asked, chosen = self._exchange(row)
        yield Instruction(row, (asked,), chosen.content, row.text("rejected"))

    def _rows(self, examples: list[Instruction], tokenizer: Tokenizer, context_length: int, *, pack: bool) -> "Pairs":
        both = [one for chosen in examples for one in (chosen, replace(chosen, response=chosen.rejected))]
        return Pairs(super()._rows(both, tokenizer, context_length, pack=False))


class Pairs:
    """Rows that come in twos: the chosen and the rejected answer of each pair.

    `reference` holds what the objective has measured of each pair before training, (n, 2); None until then.
    """

    is_packed = False

    def __init__(self, rows: Rows) -> None:
        self._rows, self.documents = rows, rows.documents
        self.reference: Tensor | None = None

    def __len__(self) -> int:
        return len(self._rows) // 2

    def batch(self, indices: np.ndarray) -> tuple[Tensor, ...]:
        """Inputs and targets of the chosen and the rejected answers, (B, 2, T) each, and the reference, (B, 2)."""
        rows = self._rows.batch(np.stack([2 * indices, 2 * indices + 1], axis=1).ravel())  # (2B, T) each
        if len(indices) == 0:  # one row that does not count
            rows = tuple(row.repeat(2, 1) for row in rows)
        reference = torch.zeros(len(rows[0]) // 2, 2)
        if self.reference is not None and len(indices):
            reference = self.reference[torch.from_numpy(indices)]
        return *(row.unflatten(0, (-1, 2)) for row in rows), reference
