"""The Python language reference, which every CPython carries: text to train on without a download."""

import hashlib
import re
from collections.abc import Iterator

from gptlab.data.source import Piece
from gptlab.errors import UserError


class PythonDocs:
    """The topics behind `help("import")` and the like: some 0.4 MB of English and code, a document a topic.

    A fifth of the topics are sections of others ("if" of "compound"): they are left out, or validation would ask for
    what training has shown. The order is that of a hash of the names, so that the tail, which is kept for validation,
    is a fair sample and not the end of the alphabet. The text differs a little between Python versions, and with it
    the losses.
    """

    name = "the Python language reference"

    def __init__(self) -> None:
        try:
            from pydoc_data.topics import topics
        except ImportError:
            raise UserError(
                "this Python comes without its language reference (pydoc_data): install it, "
                "or train on a text of your own with data=text data.path=<file>"
            ) from None
        names = _without_sections_of_others(topics)
        self._documents = [topics[name] for name in sorted(names, key=lambda name: hashlib.md5(name.encode()).digest())]

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for document in self._documents:
            digest.update(hashlib.sha256(document.encode()).digest())
        return digest.hexdigest()

    def __iter__(self) -> Iterator[Piece]:
        for document in self._documents:
            yield Piece(document, ends_document=True)


def _without_sections_of_others(topics: dict[str, str]) -> list[str]:
    """Names of the topics whose words, but for the title, stand in no longer topic; underlines may differ."""
    words = {name: " ".join(re.findall(r"\w+", text)) for name, text in topics.items()}
    bodies = {name: " ".join(re.findall(r"\w+", text.partition("\n")[2])) for name, text in topics.items()}
    return [
        name
        for name, body in bodies.items()
        if not any(len(other) > len(words[name]) and body in other for other in words.values())
    ]
