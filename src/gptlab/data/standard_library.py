"""The modules of Python's standard library, which every Python carries: text to train on without a download."""

import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gptlab.data.base import Piece
from gptlab.data.text_windows import TextWindows, file_stamps
from gptlab.errors import UserError


class StandardLibrary(TextWindows):
    """Source code of the modules that are one file, from abc.py to zipimport.py: some 5 MB.

    A document is what two blank lines end: a function, a class, a module's imports. The order is by a hash of the
    text, so that the tail is a fair sample. The text differs between versions of Python.
    """

    name = "Python's standard library"
    prompt = "def "

    def pieces(self) -> Iterator[Piece]:
        parts = {part for module in self._modules() for part in module.read_text(encoding="utf-8").split("\n\n\n")}
        for part in sorted(parts, key=lambda part: hashlib.md5(part.encode(), usedforsecurity=False).digest()):
            if part.strip():
                yield Piece(part.strip("\n") + "\n", ends_document=True)

    def stamp(self) -> list[Any]:
        return file_stamps(self._modules())

    def _modules(self) -> list[Path]:
        found = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
        if not found:
            raise UserError("this Python lacks the source of its library: train on your own text with data.path=<file>")
        return found
