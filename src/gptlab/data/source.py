"""Where text comes from: what every source promises."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol


class Piece(NamedTuple):
    """A document, or a part of a large one: memory stays flat however large a file is."""

    text: str
    ends_document: bool


class Source(Protocol):
    """An iterable of text that can be read more than once.

    Settings are keyword-only arguments of the constructor. Raises UserError where there is nothing to read, or where it
    is no text.
    """

    name: str
    """What the text is called in messages."""

    def fingerprint(self) -> str:
        """The same for the same content, whatever it is called; another for any other content."""

    def __iter__(self) -> Iterator[Piece]:
        """The documents in a fixed order, piece by piece."""
