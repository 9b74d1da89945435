"""Bytes written as characters, as GPT-2's files do it, and byte-level BPE for the `tokenizers` library."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tokenizers

EOT = "<|endoftext|>"

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
    """The bytes of a token in GPT-2's files. Raises KeyError where it is written otherwise."""
    return bytes([BYTE_OF[character] for character in written])


def byte_level_bpe(
    ids: Mapping[str, int],
    merges: Iterable[tuple[str, str]],
    *,
    special: Iterable[str] = (EOT,),
    add_prefix_space: bool = False,
) -> "tokenizers.Tokenizer":
    """Byte-level BPE with GPT-2's pattern, for the `tokenizers` library.

    Args:
        ids: of each token, spelt.
        merges: the pairs that are joined, spelt, in the order in which they were learnt.
        special: control tokens; those that have no id yet get the next ones.
        add_prefix_space: whether a text begins as if a space stood before it (GPT-2's does not).
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=dict(ids), merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=add_prefix_space, use_regex=True
    )  # GPT-2's pattern
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer
