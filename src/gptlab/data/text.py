"""Text files: a file, a directory, or a glob pattern."""

import codecs
import glob
import gzip
import hashlib
import io
import itertools
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import regex

from gptlab.data.base import Piece
from gptlab.data.text_windows import TextWindows, file_stamps
from gptlab.errors import UserError, needed

SUFFIXES = (".txt", ".md", ".txt.gz", ".md.gz", ".txt.zst", ".md.zst")
CHUNK_BYTES = 4 << 20

# The last single space between two words. No tokenizer joins the text on its two sides (GPT-2's split pattern starts a
# word with the space), so a file that is cut before one has the same tokens as the whole.
LAST_SEAM = regex.compile(r"(?r)(?<=\S) (?=\S)")


class TextFiles(TextWindows):
    """Each file is a document: UTF-8, plain or compressed, in the order of the paths. UserError if there is none.

    Args:
        path: a file, a glob pattern, or a directory: its .txt and .md files, also with .gz or .zst and in folders.
    """

    def __init__(self, *, path: str, **windows: Any) -> None:
        super().__init__(**windows)
        self.name = path
        self.files = find_files(path, SUFFIXES)

    def stamp(self) -> list[Any]:
        return file_stamps(self.files)

    def fingerprint(self) -> str:
        """Hash of the files' bytes, without compression."""
        digest = hashlib.sha256()
        for file in self.files:
            content = hashlib.sha256()
            for chunk in _chunks(file):
                content.update(chunk)
            digest.update(content.digest())
        return digest.hexdigest()

    def pieces(self) -> Iterator[Piece]:
        for file in self.files:
            yield from read_pieces(file)


def find_files(path: str, suffixes: Sequence[str], *, key: str = "data.path") -> list[Path]:
    """The files of a path, a directory or a pattern, in order. UserError, naming `key`, if there is no text in them."""
    if not path:
        raise UserError(f"{key} is empty: name a file, a directory, or a glob pattern")
    place = Path(path).expanduser()
    missing = "no such file or directory, and no file matches it as a pattern"
    try:
        if place.is_dir():
            files = [file for file in place.rglob("*") if file.name.endswith(tuple(suffixes)) and file.is_file()]
            missing = f"no {', '.join(suffixes)} file in this directory"
        else:
            files = [place] if place.is_file() else [*map(Path, glob.glob(str(place), recursive=True))]
    except (OSError, ValueError) as error:
        missing, files = str(error), []
    files = sorted(file for file in files if file.is_file())
    if not any(file.stat().st_size for file in files):
        raise UserError(f"{key}={path}: {'there is no text in it' if files else missing}")
    return files


@contextmanager
def opened(file: Path) -> Iterator[io.BufferedIOBase]:
    """The bytes of a file, without its compression (.gz, .zst). UserError if it cannot be read to its end."""
    try:
        if file.suffix == ".zst":  # the package zstandard takes a truncated file for a whole one
            arrow = needed("pyarrow", what=file.name, extra="parquet")
            with io.BufferedReader(arrow.input_stream(file, compression="zstd")) as stream:
                yield stream
        else:
            with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
                yield stream
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _chunks(file: Path) -> Iterator[bytes]:
    with opened(file) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def read_pieces(file: Path) -> Iterator[Piece]:
    """The file's text, cut at seams into pieces of some megabytes; nothing for an empty file."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()  # a byte order mark is not text
    n_bytes, carry, begun = 0, "", False
    try:
        for chunk in itertools.chain(_chunks(file), [b""]):
            n_bytes += len(chunk)
            carry += decoder.decode(chunk, final=not chunk)
            if chunk and carry:
                begun = True
                cut = seam.start() if (seam := LAST_SEAM.search(carry)) else len(carry)
                yield Piece(carry[:cut], ends_document=False)
                carry = carry[cut:]
    except UnicodeDecodeError as error:
        offset = n_bytes - len(error.object) + error.start
        raise UserError(
            f"{file} is not UTF-8: the byte at offset {offset} begins no character; convert the file (for example: "
            f"iconv -f latin1 -t utf-8) or leave it out"
        ) from None
    if begun:
        yield Piece(carry, ends_document=True)
