"""The Python language reference, which every CPython carries: text to train on without a download."""

import hashlib
from collections.abc import Iterator

from gptlab.data.source import Piece
from gptlab.errors import UserError


class PythonDocs:
    """The topics behind `help("import")` and the like: some 0.5 MB of English and code, a document a topic.

    The text differs a little between Python versions, and with it the losses.
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
        self._documents = [topics[name] for name in sorted(topics)]

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for document in self._documents:
            digest.update(hashlib.sha256(document.encode()).digest())
        return digest.hexdigest()

    def __iter__(self) -> Iterator[Piece]:
        for document in self._documents:
            yield Piece(document, ends_document=True)
