"""What every kind of data promises: one class and one yaml file.

The class reads its source, makes tokens of it, owns the splits, and gathers batches; the objective says what a batch
must hold. The rest of gptlab uses data through these contracts alone.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from gptlab.data.template import Template
from gptlab.objective import Batch
from gptlab.tokenizer import Tokenizer

TokenizerFactory = functools.partial[Tokenizer]
"""`functools.partial(TokenizerClass.train, **settings)`: called with documents, it returns a tokenizer."""


def published(factory: TokenizerFactory) -> Tokenizer | None:
    """The tokenizer, if it is one that is not trained but published."""
    return factory([]) if factory.func.__self__.is_published else None  # type: ignore[attr-defined]


class Piece(NamedTuple):
    """A document, or a part of a large one, so that memory stays flat however large a file is."""

    text: str
    ends_document: bool


Progress = Callable[[str, Iterable[Piece]], Iterable[Piece]]
"""Passes pieces through and shows how much text has gone by: (what is being done, pieces) -> pieces."""


class Examples(Protocol):
    """One split. It is pickled if worker processes gather batches."""

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray) -> Batch:
        """The examples with these indices, collated: tensors that share their first dimension.

        In validation and test, `indices` may be empty. The batch is then one row that does not count (its targets are
        -100): a rank that has no examples left still runs the model as often as the others.
        """


@dataclass(frozen=True)
class PreparedData:
    """Data that is ready to train on."""

    name: str  # what messages call the data
    tokenizer: Tokenizer  # the one that was given, or that was trained on the data
    fingerprint: str  # a hash of the content: a resumed run must find the same
    description: str  # one line for the log
    train: Examples
    val: Examples
    test: Examples | None
    val_bytes_per_token: float | None  # UTF-8 bytes per validation target; None if they mean nothing or are not known
    prompt: str  # a few words of the validation data, for samples and for commands to paste
    labels: list[str] | None = None  # what a classifier's outputs mean; None for a language model
    manifest: list[list[Any]] | None = None  # name of each file, then what must not change in it; None for other data
    entropy_rate: float | None = None  # nats per target of an ideal predictor; then val has `with_ideal_losses`
    template: Template | None = None  # how a prompt is written for the model; None if it is the beginning of a text


class Data(ABC):
    """A kind of data. Its settings are keyword-only arguments of the constructor, which checks them (ValueError)."""

    name: str  # what messages call the data
    num_workers: int  # processes that gather training batches; 0 for none
    unit: str = "token"  # that of the objective that it is for

    @abstractmethod
    def prepare(
        self, tokenizer: Tokenizer | TokenizerFactory, *, context_length: int, progress: Progress
    ) -> PreparedData:
        """Read the source and make its splits. Raises UserError if it cannot be used.

        `tokenizer` came with a model, or is a factory that trains one on the documents.
        """
