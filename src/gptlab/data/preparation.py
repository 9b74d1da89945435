"""From texts to token shards. Each file is a job of its own, which any process on any machine can do.

    file i ──texts──► batches ──tokenizer──► corpus_train_<i>.bin, corpus_val_<i>.bin, corpus_<i>.json

The .json is written last: a job is done if its .json agrees with the file and the settings.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from gptlab.data.base import Piece
from gptlab.data.shard_formats import HEADER, llm_c_header
from gptlab.data.table import stream_texts
from gptlab.data.text import CHUNK_BYTES, SUFFIXES, find_files, read_pieces
from gptlab.data.text_windows import file_stamps
from gptlab.errors import UserError
from gptlab.files import write_json
from gptlab.tokenizer import Tokenizer

SOURCES = (*SUFFIXES, ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
MOST_TOKENS = (1 << 31) - 1  # the header's number is an int32
BATCH = 1 << 18  # characters that are encoded at once


class Preparation:
    """The jobs of a corpus, one for each of its `files`, by number.

    Args:
        path: a file, a directory or a glob pattern.
        to: the directory of the shards.
        column: of tables, the one with the texts.
        val_fraction: the share of each file's tokens that is kept for validation, from its end.
        tokenizer: one with an end-of-text token, which is written before each document.

    Raises:
        UserError: if there is nothing to prepare, or `to` is a file or has the shards of another path.
    """

    def __init__(self, *, path: str, to: str, column: str, val_fraction: float, tokenizer: Tokenizer) -> None:
        if not 0 <= val_fraction < 1:
            raise UserError(f"val_fraction={val_fraction} must be at least 0 and less than 1")
        if tokenizer.eot is None:
            raise UserError(f"{type(tokenizer).__name__} has no end-of-text token, which separates documents in shards")
        self.to, self.column, self.tokenizer = Path(to).expanduser(), column, tokenizer
        self.files = find_files(path, SOURCES, key="path")
        if others := [file for file in self.files if not file.name.endswith(SOURCES)]:
            raise UserError(f"{others[0]} must end in {', '.join(SOURCES)}")
        if self.to.exists() and not self.to.is_dir():
            raise UserError(f"to={to} is a file: name a directory")
        self.dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
        state = hashlib.sha256(json.dumps(tokenizer.state()).encode()).hexdigest()
        self.settings: dict[str, Any] = {
            "path": str(Path(path).expanduser().absolute()),
            "val_fraction": val_fraction,
            "tokenizer": [type(tokenizer).__qualname__, state],
        }
        for record in self.to.glob("corpus_[0-9]*.json"):
            if (other := _read(record).get("path", self.settings["path"])) != self.settings["path"]:
                raise UserError(f"to={to} has the shards of path={other}: name another directory")
            if (number := int(record.stem[7:])) >= len(self.files):  # a file that is no longer there
                self._remove(number)

    def record(self, number: int) -> dict[str, Any] | None:
        """The settings and statistics of a job that is done, or None."""
        record = _read(self._record(number))
        shards = record.get("shards", {})
        sizes = {name: place.stat().st_size for name in shards if (place := self.to / name).is_file()}
        return record if sizes == shards and record.items() >= self._settings(number).items() else None

    def make(self, number: int, report: Callable[[int], None]) -> int:
        """Do a job; returns the number of tokens, and calls `report` with it from time to time. Another process may.

        Raises UserError if the file cannot be used.
        """
        self.to.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.to / f".corpus_{number:06d}.lock")
        try:
            with lock.acquire(timeout=0):
                try:
                    return 0 if self.record(number) is not None else self._make(number, report)
                finally:
                    Path(lock.lock_file).unlink(missing_ok=True)
        except Timeout:  # another process makes it
            return 0

    def _make(self, number: int, report: Callable[[int], None]) -> int:
        """What another job has left is removed; earlier shards stay until there are new ones."""
        for left in self.to.glob(f".corpus_{number:06d}.*/"):
            shutil.rmtree(left, ignore_errors=True)
        settings = self._settings(number)
        with TemporaryDirectory(prefix=f".corpus_{number:06d}.", dir=self.to) as partial:
            statistics = self._write(self.files[number], Path(partial), report)
            if settings != self._settings(number):
                raise UserError(f"{self.files[number]} has changed while it was read: start again")
            self._remove(number)
            shards = {}
            for part in ("train", "val"):
                if statistics[f"{part}_tokens"]:
                    place = Path(partial, part).replace(self.to / f"corpus_{part}_{number:06d}.bin")
                    shards[place.name] = place.stat().st_size
            write_json(self._record(number), {**settings, **statistics, "shards": shards})
        return statistics["train_tokens"] + statistics["val_tokens"]

    def _record(self, number: int) -> Path:
        return self.to / f"corpus_{number:06d}.json"

    def _settings(self, number: int) -> dict[str, Any]:
        file = self.files[number]
        of_tables = {} if file.name.endswith(SUFFIXES) else {"column": self.column}
        return {**self.settings, **of_tables, "source": file_stamps([file])[0]}

    def _remove(self, number: int) -> None:
        """Remove what a job has written; the record first."""
        self._record(number).unlink(missing_ok=True)
        for part in ("train", "val"):
            (self.to / f"corpus_{part}_{number:06d}.bin").unlink(missing_ok=True)

    def _write(self, file: Path, place: Path, report: Callable[[int], None]) -> dict[str, int]:
        """Write all tokens to `train`, and move the last ones to `val`. Returns the statistics of the file."""
        documents = n_tokens = n_bytes = longest = begun = 0  # begun: where the current document begins
        with (place / "train").open("w+b") as train, (place / "val").open("w+b") as val:
            train.seek(HEADER * 4)
            for texts, continues in _batches(_pieces(file, self.column)):
                try:
                    ids = self.tokenizer.encode_documents(texts)[continues:]
                except ValueError as error:  # a closed vocabulary
                    raise UserError(f"{file}: {error}") from None
                train.write(ids.astype(self.dtype).data)
                begins = np.append(begun, n_tokens + np.flatnonzero(ids == self.tokenizer.eot))
                longest, begun = max(longest, int(np.diff(begins).max(initial=0))), int(begins[-1])
                documents, n_tokens = documents + len(begins) - 1, n_tokens + len(ids)
                if n_tokens > MOST_TOKENS:
                    raise UserError(f"{file} has more than {MOST_TOKENS:,} tokens, the most of a shard: cut it in two")
                n_bytes += len("".join(texts).encode("utf-8", "surrogatepass"))
                report(n_tokens)
            n_val = int(n_tokens * self.settings["val_fraction"])
            cut = HEADER * 4 + (n_tokens - n_val) * self.dtype.itemsize
            train.seek(cut)
            val.seek(HEADER * 4)
            shutil.copyfileobj(train, val, CHUNK_BYTES)
            train.truncate(cut)
            counts = {"train_tokens": n_tokens - n_val, "val_tokens": n_val}
            for part, n in zip((train, val), counts.values(), strict=True):
                part.seek(0)
                part.write(llm_c_header(n, self.dtype))
                part.flush()
                os.fsync(part.fileno())
        longest = max(longest, n_tokens - begun)
        return {**counts, "documents": documents, "bytes": n_bytes, "longest_document": longest}


def _read(record: Path) -> dict[str, Any]:
    """Empty if another process has just removed it."""
    try:
        return json.loads(record.read_bytes())
    except FileNotFoundError:
        return {}


def _pieces(file: Path, column: str) -> Iterator[Piece]:
    if file.name.endswith(SUFFIXES):
        return read_pieces(file)
    return (Piece(text, ends_document=True) for text in stream_texts(file, column))


def _batches(pieces: Iterator[Piece]) -> Iterator[tuple[list[str], bool]]:
    """Texts to encode at once, and whether the first of them continues a document."""
    texts, size, continues = list[str](), 0, False
    for piece in pieces:
        texts.append(piece.text)
        size += len(piece.text)
        if size >= BATCH or not piece.ends_document:
            yield texts, continues
            texts, size, continues = [], 0, not piece.ends_document
    if texts:
        yield texts, continues
