"""What every tokenizer promises."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

if TYPE_CHECKING:
    import tokenizers


class Tokenizer(Protocol):
    """Text to ids and back.

    A trained tokenizer is immutable. Text that spells a special token, such as `<|endoftext|>`, is text: `encode` never
    yields a control token for it. Whoever wants the end-of-text token writes `tokenizer.eot`.
    """

    @property
    def vocab_size(self) -> int:
        """Every id lies in [0, vocab_size)."""

    @property
    def eot(self) -> int | None:
        """The id that separates documents, or None where the vocabulary has none."""

    @property
    def byte_lengths(self) -> np.ndarray | None:
        """UTF-8 bytes that each id stands for, (vocab_size,); None where decoding loses bytes."""

    @classmethod
    def train(cls, documents: Iterable[str]) -> Self:
        """Build the vocabulary from text. Settings are further keyword-only arguments of the class."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text. Raises ValueError where a closed vocabulary lacks a part of it."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids."""

    def state(self) -> dict[str, Any]:
        """Plain data (str, int, list, dict) from which `from_state` rebuilds the tokenizer exactly."""

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Rebuild from `state()`."""

    def to_tokenizers(self) -> "tokenizers.Tokenizer | None":
        """The same tokenizer, id for id, for the `tokenizers` library; None where that cannot express it.

        `<|endoftext|>`, where there is one, is a special token of it.
        """
