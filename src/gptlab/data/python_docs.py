"""The Python language reference, which is part of every CPython: text to train on without a download."""

import hashlib
import re
from collections.abc import Iterator

from gptlab.data.base import Piece
from gptlab.data.text_windows import TextWindows
from gptlab.errors import UserError


class PythonDocs(TextWindows):
    """The topics of `help("import")` and the like: some 0.4 MB of English and code, each topic a document.

    Sections of other topics ("if" of "compound") are left out, or validation text would also be training text. The
    order is by a hash of the names, so that the tail is a fair sample. The text differs a little between Pythons.
    """

    name = "the Python language reference"

    def pieces(self) -> Iterator[Piece]:
        try:
            from pydoc_data.topics import topics
        except ImportError:
            raise UserError("this Python lacks pydoc_data: train on your own text with data.path=<file>") from None
        names = _without_sections_of_others(topics)
        for name in sorted(names, key=lambda name: hashlib.md5(name.encode(), usedforsecurity=False).digest()):
            yield Piece(topics[name], ends_document=True)


def _without_sections_of_others(topics: dict[str, str]) -> list[str]:
    """Names of the topics whose words, except the title, are in no longer topic; underlines may differ."""
    words = {name: " ".join(re.findall(r"\w+", text)) for name, text in topics.items()}
    bodies = {name: " ".join(re.findall(r"\w+", text.partition("\n")[2])) for name, text in topics.items()}
    return [
        name
        for name, body in bodies.items()
        if not any(len(other) > len(words[name]) and body in other for other in words.values())
    ]
