"""Text files of the user's own: a file, a directory, or a glob pattern."""

import codecs
import glob
import gzip
import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import regex

from gptlab.data.source import Piece
from gptlab.errors import UserError

SUFFIXES = (".txt", ".md", ".txt.gz", ".md.gz")
CHUNK_BYTES = 4 << 20

# A single space between two words. No tokenizer joins what stands on its two sides (GPT-2's split pattern starts a word
# with the space), so a file that is cut before one has the same tokens as the whole.
SEAM = regex.compile(r"(?<=\S) (?=\S)")


class TextFiles:
    """A document a file, UTF-8, plain or gzipped, in the order of their paths.

    Args:
        path: a file; a directory, of which every .txt and .md file counts, also in its folders, also with .gz
            behind it; or a glob pattern.

    Raises:
        UserError: where nothing is there.
    """

    def __init__(self, *, path: str) -> None:
        self.name = path
        self.files = _find(path)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(_content_digest(file))
        return digest.hexdigest()

    def __iter__(self) -> Iterator[Piece]:
        empty = True
        for file in self.files:
            for piece in _read_pieces(file):
                empty = False
                yield piece
        if empty:
            raise UserError(f"data.path={self.name}: there is no text in it")


def _find(path: str) -> list[Path]:
    if not path:
        raise UserError("data.path is empty: name a file, a directory, or a glob pattern")
    place = Path(path).expanduser()
    try:
        if place.is_dir():
            files = [file for file in place.rglob("*") if file.name.endswith(SUFFIXES) and file.is_file()]
            missing = f"data.path={path}: no {', '.join(SUFFIXES)} file in this directory"
        elif place.is_file():
            return [place]
        else:
            files = [Path(match) for match in glob.glob(str(place), recursive=True) if Path(match).is_file()]
            missing = f"data.path={path}: no such file or directory, and no file matches it as a pattern"
    except (OSError, ValueError) as error:
        raise UserError(f"data.path={path}: {error}") from None
    if not files:
        raise UserError(missing)
    return sorted(files)


def _open(file: Path) -> IO[bytes]:
    return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")  # type: ignore[return-value]


def _chunks(file: Path) -> Iterator[bytes]:
    try:
        with _open(file) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{file} cannot be read: {reason}") from None


def _content_digest(file: Path) -> bytes:
    digest = hashlib.sha256()
    for chunk in _chunks(file):
        digest.update(chunk)
    return digest.digest()


def _read_pieces(file: Path) -> Iterator[Piece]:
    """The file's text, cut at seams into pieces of some megabytes; none of an empty file."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, carry, begun = 0, "", False
    for chunk in _chunks(file):
        undecoded = len(decoder.getstate()[0])  # the first bytes of a character whose rest is in this chunk
        try:
            text = carry + decoder.decode(chunk)
        except UnicodeDecodeError as error:
            raise _not_utf8(file, offset - undecoded + error.start) from None
        if offset == 0:
            text = text.removeprefix("\ufeff")  # a byte order mark is no text
        offset += len(chunk)
        cut = _last_seam(text)
        carry = text[cut:]
        if cut:
            begun = True
            yield Piece(text[:cut], ends_document=False)
    undecoded = len(decoder.getstate()[0])
    if undecoded:
        raise _not_utf8(file, offset - undecoded)
    if carry or begun:
        yield Piece(carry, ends_document=True)


def _not_utf8(file: Path, offset: int) -> UserError:
    return UserError(
        f"{file} is not UTF-8: the byte at offset {offset} begins no character; convert the file "
        f"(for example: iconv -f latin1 -t utf-8) or take it out of data.path"
    )


def _last_seam(text: str) -> int:
    """Where the last seam of a text lies; its end, in text without any."""
    near_end = max(0, len(text) - 10_000)
    for start in (near_end, 0):
        seams = [match.start() for match in SEAM.finditer(text, start)]
        if seams:
            return seams[-1]
    return len(text)
