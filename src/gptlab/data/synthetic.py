"""Synthetic sources: sequences that are generated on the fly, and whose ideal predictor is known exactly.

A subclass says how a sequence is drawn and what the loss of an ideal predictor is at each of its targets.
"""

import hashlib
import json
import string
from abc import abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from gptlab.data.base import Data, PreparedData, Progress, TokenizerFactory
from gptlab.data.windows import WindowDataset
from gptlab.errors import UserError
from gptlab.objective import Batch
from gptlab.objective.base import IGNORED
from gptlab.tokenizer import Tokenizer

Split = Literal["train", "val"]
UNLIMITED = 2**48
SYMBOLS = string.digits + string.ascii_letters + "".join(map(chr, range(0x4E00, 0x9FA6)))
"""Characters that stand for the symbols of a source, in this order."""
PROMPT = 8  # symbols
HASHED = 8  # validation sequences: generators of random numbers may change


class Synthetic(Data):
    """Sequences of symbols, one token each. A sequence depends on (seed, split, index) alone.

    Args:
        seed: of the source, not of the run: runs with different seeds see the same source.
        n_val: sequences for validation.
        num_workers: processes that draw training sequences; 0 for none.

    Attributes:
        alphabet: a character for each symbol.
        n_train: training sequences.
    """

    alphabet: str
    n_train: int = UNLIMITED

    def __init__(self, *, seed: int, n_val: int, num_workers: int) -> None:
        for name, value, least in (("seed", seed, 0), ("n_val", n_val, 1), ("num_workers", num_workers, 0)):
            if value < least:
                raise ValueError(f"{name}={value} must be {least} or more")
        self.name = type(self).__name__.lower()
        own = {name: value for name, value in vars(self).items() if isinstance(value, int | float)}
        self._settings = {**own, "name": self.name, "seed": seed, "n_val": n_val}
        self.seed, self.n_val, self.num_workers = seed, n_val, num_workers

    @abstractmethod
    def draw(self, split: Split, indices: np.ndarray, context_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Sequences (B, L + 1) of symbols, L <= context_length, and ideal losses in nats (B, L).

        The ideal loss of a target is minus the log of its probability given all symbols before it; nan if the target
        does not count. Raises UserError if the context is too short.
        """

    @abstractmethod
    def entropy_rate(self, context_length: int) -> float:
        """The expected ideal loss, exactly: nats per target that counts."""

    def uniforms(self, split: Split, indices: np.ndarray, n: int) -> np.ndarray:
        """Random numbers in [0, 1), (B, n): row i by Philox (Salmon et al. 2011), with the index as its counter."""
        key = [self.seed, split == "val"]
        streams = (np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, index])) for index in indices)
        return np.stack([stream.random(n) for stream in streams])

    def prepare(
        self, tokenizer: Tokenizer | TokenizerFactory, *, context_length: int, progress: Progress
    ) -> PreparedData:
        """Raises UserError if the tokenizer does not make one token of each symbol."""
        made = tokenizer if isinstance(tokenizer, Tokenizer) else tokenizer([self.alphabet])
        ids: list[list[int]] = []
        with suppress(ValueError):  # a closed vocabulary lacks a symbol
            ids = [made.encode(symbol) for symbol in self.alphabet]
        if {*map(len, ids)} != {1} or len({*map(tuple, ids)}) < len(self.alphabet):
            raise UserError(f"data={self.name}: {type(made).__name__} does not make one token of each symbol; use char")
        token_of = np.array(ids)[:, 0]
        entropy_rate = self.entropy_rate(context_length)
        train = Sequences(self, "train", self.n_train, context_length, token_of)
        val = Sequences(self, "val", self.n_val, context_length, token_of)
        inputs, targets = val.batch(np.arange(min(HASHED, len(val))))
        n_targets = int((targets[0] != IGNORED).sum())
        content = json.dumps(self._settings, sort_keys=True).encode() + targets.numpy().tobytes()
        return PreparedData(
            name=self.name,
            tokenizer=made,
            fingerprint=hashlib.sha256(content).hexdigest(),
            description=f"{self.name}: {len(self.alphabet):,} symbols, {self.n_val:,} validation sequences with "
            f"{n_targets:,} targets each, entropy rate {entropy_rate:.4f} nats per target",
            train=train,
            val=val,
            test=None,
            val_bytes_per_token=None,
            prompt=made.decode(inputs[0, :PROMPT].tolist()),
            entropy_rate=entropy_rate,
        )


def check_vocabulary(vocab_size: int) -> None:
    """Raise ValueError if there are not as many symbols."""
    if not 2 <= vocab_size <= len(SYMBOLS):
        raise ValueError(f"vocab_size={vocab_size} must lie between 2 and {len(SYMBOLS):,}")


@dataclass(frozen=True, eq=False)
class Sequences:
    """One split. Inputs and targets come from the same windows as a text's."""

    source: Synthetic
    split: Split
    n: int
    context_length: int
    token_of: np.ndarray  # the token of each symbol, (V,)

    def __len__(self) -> int:
        return self.n

    def batch(self, indices: np.ndarray) -> Batch:
        """Inputs and targets, (B, L) int64 each."""
        return self.with_ideal_losses(indices)[:2]

    def with_ideal_losses(self, indices: np.ndarray) -> Batch:
        """A batch, and the loss of an ideal predictor at each target in nats, (B, L) float64."""
        symbols, ideal = self.source.draw(self.split, indices if len(indices) else np.array([0]), self.context_length)
        n_rows, length = symbols.shape
        windows = WindowDataset(self.token_of[symbols].ravel(), context_length=length - 1, stride=length)
        inputs, targets = windows.batch(np.arange(n_rows))
        ignored = np.isnan(ideal) if len(indices) else np.full(ideal.shape, fill_value=True)
        return inputs, targets.masked_fill(torch.from_numpy(ignored), IGNORED), torch.from_numpy(ideal)
