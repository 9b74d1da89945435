"""Token texts for people: every space, line break and partial character is visible."""

from collections.abc import Iterable
from contextlib import suppress

from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.byte_level import unspell

REPLACEMENT = "\ufffd"  # decoding writes it for bytes that are not a character
SHOWN_AS = {" ": "·", "\n": "↵", "\t": "⇥"}


def token_texts(tokenizer: Tokenizer, ids: Iterable[int]) -> dict[int, str]:
    """The readable text of each id.

    A space is `·`, a line break `↵`, a tab `⇥`; unprintable characters are escaped as in Python. The bytes of a token
    that is not a whole character are escaped too, if the tokenizer's bytes are known.
    """
    texts = {id_: tokenizer.decode([id_]) for id_ in sorted(set(ids))}
    partial = [id_ for id_, text in texts.items() if REPLACEMENT in text]
    if partial:
        texts.update(_escaped_bytes(tokenizer, partial))
    return {id_: visible(text) if text else f"<{id_}>" for id_, text in texts.items()}


def visible(text: str) -> str:
    r"""The text with every character visible.

    >>> visible(" a\n\x00")
    '·a↵\\x00'
    """
    return "".join(SHOWN_AS.get(c, c if c.isprintable() else c.encode("unicode_escape").decode()) for c in text)


def _escaped_bytes(tokenizer: Tokenizer, ids: list[int]) -> dict[int, str]:
    r"""Texts of byte-level tokens that are not whole characters, as in ` \xe2\x80`; ids of unknown bytes are absent."""
    backend = tokenizer.to_tokenizers()
    found = {}
    for id_ in ids:
        spelt = backend.id_to_token(id_) if backend is not None else None
        with suppress(KeyError):  # this tokenizer does not spell bytes
            found[id_] = unspell(spelt or "").decode("utf-8", "backslashreplace")
    return {id_: text for id_, text in found.items() if text}
