"""OpenAI's GPT-2 vocabulary, as tiktoken publishes it, or as it lies beside GPT-2's weights on the Hub."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import tiktoken

from gptlab.network import is_reachable
from gptlab.tokenizer.bpe import SPLIT_PATTERN
from gptlab.tokenizer.byte_level import BYTE_ORDER, EOT, byte_level_bpe, spell, unspell

if TYPE_CHECKING:
    import tokenizers

HUB_REPOSITORY = "openai-community/gpt2"
TIKTOKENS_FILES = (  # vocab.bpe and encoder.json in its cache: sha1 of the addresses that they come from
    "6d1cbeee0f20b3d9449abfede4726ed8212e3aee",
    "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6",
)
TIKTOKENS_HOST = "https://openaipublic.blob.core.windows.net"
MERGES_SHA256 = "04e3597d7996f292ca9b8b7285ca4d58a6ae171ac47d73fc7140ceb0c7a6bbc0"
"""Of the 50,000 merges, a line each."""


class GPT2Tokenizer:
    """50,257 tokens: 256 bytes, 50,000 merges, `<|endoftext|>`.

    tiktoken fetches the vocabulary once and keeps it in its cache (TIKTOKEN_CACHE_DIR, or a folder of the system's
    temporary directory). Where that cannot be had, merges.txt of GPT-2's repository on the Hub says the same.

    Args:
        merges: the text of merges.txt; None for the published files.

    Raises:
        ValueError: where the merges are not GPT-2's, or no source of them can be reached.
    """

    def __init__(self, *, merges: str | None = None) -> None:
        self._merges = merges
        self._encoding = _published_encoding() if merges is None else _encoding_of(merges)

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
        return np.array([*map(len, self._tokens()), 0], dtype=np.int64)  # <|endoftext|> stands for no byte

    def encode(self, text: str) -> list[int]:
        return self._encoding.encode_ordinary(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Bytes that are no UTF-8 (a character cut in two) become U+FFFD."""
        return self._encoding.decode(list(ids))

    def state(self) -> dict[str, Any]:
        """Empty where the vocabulary is the published one; the merges where they came with a model."""
        return {} if self._merges is None else {"merges": self._merges}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        return cls(**state)

    def to_tokenizers(self) -> "tokenizers.Tokenizer":
        ids = {token: id_ for id_, token in enumerate(self._tokens())}
        pairs = [halves(token, ids) for token in ids if len(token) > 1]
        spelt = {spell(token): id_ for token, id_ in ids.items()}
        return byte_level_bpe(spelt, [(spell(left), spell(right)) for left, right in pairs])

    def _tokens(self) -> list[bytes]:
        """The bytes behind each id but the last, `<|endoftext|>`."""
        return [self._encoding.decode_single_token_bytes(id_) for id_ in range(self.eot)]


def halves(token: bytes, ids: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The pair whose merge made a token: what is left of it when only earlier merges are made."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        earliest = min(range(len(parts) - 1), key=lambda i: ids.get(parts[i] + parts[i + 1], len(ids)))
        parts[earliest : earliest + 2] = [parts[earliest] + parts[earliest + 1]]
    return parts[0], parts[1]


def merge_lines(merges: str) -> list[str]:
    """The lines of a merges.txt, without its first, `#version: 0.2`."""
    return [line for line in merges.splitlines() if line and not line.startswith("#version")]


def is_gpt2s(merges: Iterable[str]) -> bool:
    """Whether these lines are GPT-2's 50,000 merges."""
    return hashlib.sha256("\n".join(merges).encode()).hexdigest() == MERGES_SHA256


def _encoding_of(merges: str) -> tiktoken.Encoding:
    lines = merge_lines(merges)
    if not is_gpt2s(lines):
        raise ValueError(f"these {len(lines):,} merges are not GPT-2's")
    tokens = [bytes([byte]) for byte in BYTE_ORDER] + [unspell(line.replace(" ", "")) for line in lines]
    return tiktoken.Encoding(
        "gpt2",
        pat_str=SPLIT_PATTERN,
        mergeable_ranks={token: id_ for id_, token in enumerate(tokens)},
        special_tokens={EOT: len(tokens)},
        explicit_n_vocab=len(tokens) + 1,
    )


def _published_encoding() -> tiktoken.Encoding:
    """From tiktoken's cache, its server, the Hub's cache, or the Hub: the first that has it."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HTTPError

    may_ask = not constants.HF_HUB_OFFLINE
    if _tiktoken_has_it() or (may_ask and is_reachable(TIKTOKENS_HOST)):
        with suppress(OSError, ValueError):  # requests' errors are OSErrors; ValueError: the hash does not fit
            return tiktoken.get_encoding("gpt2")
    for from_cache_only in (True, False) if may_ask and is_reachable(constants.ENDPOINT) else (True,):
        with suppress(OSError, HTTPError, ValueError):
            path = hf_hub_download(HUB_REPOSITORY, "merges.txt", local_files_only=from_cache_only)
            return _encoding_of(Path(path).read_text(encoding="utf-8"))
    raise ValueError(
        "GPT-2's vocabulary is neither in tiktoken's cache nor in the Hub's, and could not be fetched: run once with a "
        "network, or point TIKTOKEN_CACHE_DIR at a directory that holds it"
    )


def cached_in() -> str | None:
    """The cache that the published vocabulary would be read from; None where it would have to be fetched."""
    from huggingface_hub import try_to_load_from_cache

    if _tiktoken_has_it():
        return "tiktoken's cache"
    found = try_to_load_from_cache(HUB_REPOSITORY, "merges.txt")
    return "the Hub's cache" if isinstance(found, str) else None


def _tiktoken_has_it() -> bool:
    """Tiktoken's own rule of where its cache lies (tiktoken/load.py)."""
    place = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    cache = Path(place if place is not None else Path(tempfile.gettempdir(), "data-gym-cache"))
    return all((cache / name).is_file() for name in TIKTOKENS_FILES)
