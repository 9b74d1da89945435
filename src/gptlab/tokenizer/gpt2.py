"""OpenAI's GPT-2 vocabulary: from tiktoken's cache, or from GPT-2's repository on the Hugging Face Hub."""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from gptlab.tokenizer.byte_level import BYTE_ORDER, ByteLevelTokenizer, unspell

TIMEOUT = 5.0  # seconds for the Hub to take a connection, and to answer
HUB_REPOSITORY, HUB_FILE = "openai-community/gpt2", "merges.txt"
TIKTOKENS_FILE = "6d1cbeee0f20b3d9449abfede4726ed8212e3aee"
"""The same file in tiktoken's cache: the SHA-1 of the address that tiktoken fetches it from."""
MERGES_SHA256 = "04e3597d7996f292ca9b8b7285ca4d58a6ae171ac47d73fc7140ceb0c7a6bbc0"
"""Hash of the 50,000 merges, one per line."""


class GPT2Tokenizer(ByteLevelTokenizer):
    """50,257 tokens: 256 bytes, 50,000 merges, `<|endoftext|>`.

    `merges` is the text of merges.txt, None for the published file; ValueError if it is not GPT-2's or not found.
    """

    is_published = True

    def __init__(self, *, merges: str | None = None) -> None:
        self._merges = merges
        lines = merge_lines(merges if merges is not None else _published_merges())
        if not is_gpt2s(lines):
            raise ValueError(f"these {len(lines):,} merges are not GPT-2's")
        pairs = [(unspell(left), unspell(right)) for left, right in map(str.split, lines)]
        tokens = [bytes([byte]) for byte in BYTE_ORDER] + [left + right for left, right in pairs]
        super().__init__(tokens=tokens, merges=pairs)

    @classmethod
    def train(cls, documents: Iterable[str]) -> Self:
        """The vocabulary is published: no document is read."""
        return cls()

    def state(self) -> dict[str, Any]:
        """Empty for the published vocabulary; the merges if they came with a model."""
        return {} if self._merges is None else {"merges": self._merges}


def merge_lines(merges: str) -> list[str]:
    """The lines of a merges.txt, without its first, `#version: 0.2`."""
    return [line for line in merges.splitlines() if line and not line.startswith("#version")]


def is_gpt2s(merges: Iterable[str]) -> bool:
    """Whether these lines are GPT-2's 50,000 merges."""
    return hashlib.sha256("\n".join(merges).encode()).hexdigest() == MERGES_SHA256


def _published_merges() -> str:
    """From tiktoken's cache, the Hub's cache, or the Hub: the first that has them."""
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HTTPError

    if _in_tiktokens_cache().is_file():
        return _in_tiktokens_cache().read_text(encoding="utf-8")
    path = try_to_load_from_cache(HUB_REPOSITORY, HUB_FILE)
    try:
        if not isinstance(path, str):
            HfApi().model_info(HUB_REPOSITORY, revision="main", timeout=TIMEOUT)  # a download retries for half a minute
            path = hf_hub_download(HUB_REPOSITORY, HUB_FILE, etag_timeout=TIMEOUT)
        return Path(path).read_text(encoding="utf-8")
    except (OSError, HTTPError, ValueError):
        raise ValueError(
            "GPT-2's vocabulary is neither in tiktoken's cache nor in the Hub's, and could not be fetched: run once "
            "with a network, or point TIKTOKEN_CACHE_DIR at a directory that holds it"
        ) from None


def _in_tiktokens_cache() -> Path:
    """Where tiktoken keeps the file, by the rule in tiktoken/load.py."""
    place = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    return Path(place if place is not None else Path(tempfile.gettempdir(), "data-gym-cache"), TIKTOKENS_FILE)
