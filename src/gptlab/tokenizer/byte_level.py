"""Tokens of bytes, and bytes written as characters, as GPT-2's files do it."""

from collections.abc import Sequence

import numpy as np
import tiktoken
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from gptlab.tokenizer.base import Tokenizer

EOT = "<|endoftext|>"

# GPT-2's idea of a word: a contraction, letters or digits or signs with the one space before them, or white space.
SPLIT_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

# Printable bytes stand for themselves, the others for characters from U+0100 on, so that no token has white space in
# it. GPT-2 numbers its first 256 tokens in this order.
_PRINTABLE = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_ORDER = [*_PRINTABLE, *_OTHERS]
CHARACTER_OF = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + n) for n, byte in enumerate(_OTHERS)}
BYTE_OF = {character: byte for byte, character in CHARACTER_OF.items()}


def spell(token: bytes) -> str:
    """A token as GPT-2's files write it.

    >>> spell(b" the")
    'Ġthe'
    """
    return "".join([CHARACTER_OF[byte] for byte in token])


def unspell(written: str) -> bytes:
    """The bytes of a token in GPT-2's files. Raises KeyError if it is written in another way."""
    return bytes([BYTE_OF[character] for character in written])


class ByteLevelTokenizer(Tokenizer):
    """Tokens of bytes, then `<|endoftext|>`. Every text has an encoding, which runs in tiktoken's compiled loop.

    `tokens` are the bytes of each id: the single ones, then those of the merges in the order in which they were learnt.
    """

    def __init__(self, *, tokens: list[bytes], merges: list[tuple[bytes, bytes]]) -> None:
        self._tokens, self._merged = tokens, merges
        self.eot = len(tokens)
        self.vocab_size = len(tokens) + 1
        self.byte_lengths = np.array([*map(len, tokens), 0], dtype=np.int64)
        self._encoding = tiktoken.Encoding(
            "gptlab",
            pat_str=SPLIT_PATTERN,
            mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
            special_tokens={EOT: self.eot},
            explicit_n_vocab=self.vocab_size,
        )

    def encode(self, text: str) -> list[int]:
        return self._encoding.encode_ordinary(text)

    def encode_documents(self, documents: Sequence[str]) -> np.ndarray:
        text = "".join([f"{EOT}{document}" for document in documents])
        try:
            if text.count(EOT) == len(documents):  # no document spells the token
                return self._encoding.encode_to_numpy(text, allowed_special={EOT}, disallowed_special=())
        except UnicodeEncodeError:  # half of a surrogate pair, which `encode` replaces
            pass
        return super().encode_documents(documents)

    def decode(self, ids: Sequence[int]) -> str:
        return self._encoding.decode(list(ids))

    def to_tokenizers(self) -> tokenizers.Tokenizer:
        ids = {spell(token): id_ for id_, token in enumerate(self._tokens)}
        merges = [(spell(left), spell(right)) for left, right in self._merged]
        tokenizer = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)  # GPT-2's pattern
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([tokenizers.AddedToken(EOT, special=True, normalized=False)])
        return tokenizer
