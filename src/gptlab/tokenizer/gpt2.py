"""OpenAI's GPT-2 vocabulary, as tiktoken publishes it."""

from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
import tiktoken


class GPT2Tokenizer:
    """50,257 tokens: 256 bytes, 50,000 merges, `<|endoftext|>`.

    tiktoken fetches the two vocabulary files once and keeps them in its cache (TIKTOKEN_CACHE_DIR, or a folder of the
    system's temporary directory).
    """

    def __init__(self) -> None:
        try:
            self._encoding = tiktoken.get_encoding("gpt2")
        except (
            OSError,
            ValueError,
        ) as error:  # requests' errors are OSErrors; ValueError: the hash does not fit
            raise ValueError(
                f"GPT-2's vocabulary is not in tiktoken's cache and could not be fetched ({type(error).__name__}): "
                f"run once with a network, or point TIKTOKEN_CACHE_DIR at a directory that holds it"
            ) from None

    @classmethod
    def train(cls, documents: Iterable[str]) -> Self:
        """The vocabulary is published: no document is read."""
        return cls()

    @property
    def vocab_size(self) -> int:
        return self._encoding.n_vocab

    @property
    def eot(self) -> int:
        return self._encoding.eot_token

    @property
    def byte_lengths(self) -> np.ndarray:
        lengths = np.zeros(self.vocab_size, dtype=np.int64)  # <|endoftext|> stands for no byte
        for id_ in range(self.vocab_size):
            if id_ != self.eot:
                lengths[id_] = len(self._encoding.decode_single_token_bytes(id_))
        return lengths

    def encode(self, text: str) -> list[int]:
        return self._encoding.encode_ordinary(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Bytes that are no UTF-8 (a character cut in two) become U+FFFD."""
        return self._encoding.decode(list(ids))

    def state(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        return cls(**state)
