"""Tokens as people read them: every space, line break and half character can be seen."""

import unicodedata
from collections.abc import Iterable

from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.byte_level import unspell

REPLACEMENT = "\ufffd"  # what decoding writes for bytes that are no character
SHOWN_AS = {" ": "·", "\n": "↵", "\t": "⇥"}
ALONE = "◌"  # what an accent stands on when its letter is in another token


def token_texts(tokenizer: Tokenizer, ids: Iterable[int]) -> dict[int, str]:
    """Each id's text, for people.

    A space is `·`, a line break `↵`, a tab `⇥`; what cannot be printed is escaped as Python does it. So are the bytes
    of a token that is no whole character, where the tokenizer's bytes can be known.
    """
    texts = {id_: tokenizer.decode([id_]) for id_ in sorted(set(ids))}
    halves = [id_ for id_, text in texts.items() if REPLACEMENT in text]
    if halves:
        texts.update(_escaped_bytes(tokenizer, halves))
    return {id_: visible(text) if text else f"<{id_}>" for id_, text in texts.items()}


def visible(text: str) -> str:
    r"""A text in which everything can be seen.

    >>> visible(" a\n\x00")
    '·a↵\\x00'
    """
    shown = "".join(SHOWN_AS.get(c, c if c.isprintable() else c.encode("unicode_escape").decode()) for c in text)
    return ALONE + shown if shown and unicodedata.combining(shown[0]) else shown


def _escaped_bytes(tokenizer: Tokenizer, ids: list[int]) -> dict[int, str]:
    r"""Texts of byte-level tokens that are no whole characters, as in ` \xe2\x80`; none where bytes are not known."""
    backend = tokenizer.to_tokenizers()
    found = {}
    for id_ in ids:
        spelt = backend.id_to_token(id_) if backend is not None else None
        try:
            found[id_] = unspell(spelt or "").decode("utf-8", "backslashreplace")
        except KeyError:  # this tokenizer does not spell bytes
            continue
    return {id_: text for id_, text in found.items() if text}
