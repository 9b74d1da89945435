"""What every tokenizer promises."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
import tokenizers


class Tokenizer(ABC):
    """Text to ids and back. A trained tokenizer never changes.

    Text that spells a special token, such as `<|endoftext|>`, is text: `encode` never returns a control token for it.
    The end-of-text token is written with `tokenizer.eot`.
    """

    vocab_size: int  # every id lies in [0, vocab_size)
    eot: int | None = None  # the id that separates documents; None if the vocabulary has none
    is_published: bool = False  # its vocabulary is known without any text
    byte_lengths: np.ndarray | None = None  # UTF-8 bytes of each id, (vocab_size,); None if decoding loses bytes

    @classmethod
    @abstractmethod
    def train(cls, documents: Iterable[str]) -> Self:
        """Build the vocabulary from text. Settings are further keyword-only arguments."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a text. Raises ValueError if a closed vocabulary lacks a part of it."""

    def encode_documents(self, documents: Sequence[str]) -> np.ndarray:
        """Ids of documents, (n_tokens,) uint32, with the end-of-text token before each. ValueError as `encode`."""
        return np.array([id_ for text in documents for id_ in (self.eot, *self.encode(text))], dtype=np.uint32)

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids. Bytes that are not UTF-8 (a character cut in two) become U+FFFD."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """The constructor's arguments, as plain data (str, int, list, dict), that rebuild the tokenizer exactly."""

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Rebuild from `state()`."""
        return cls(**state)

    def to_tokenizers(self) -> tokenizers.Tokenizer | None:
        """The same tokenizer, id for id, for the `tokenizers` library; None if that cannot express it."""
        return None
