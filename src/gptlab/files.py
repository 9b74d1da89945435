"""Files that are written whole: a reader, a crash or a power failure finds the old file or the new one."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

PARTIAL = ".tmp"
"""Behind the name of a file that is being written; whatever bears it may be deleted once its writer has gone."""


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes its name when the block has ended and all of it is on the disk.

    Where the block or the disk fails, what `path` held before stays as it was, and nothing is left beside it.

    Raises:
        OSError: where it cannot be written.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make new names in a directory survive a power failure. Windows has no such thing, and keeps them without."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: str) -> None:
    with whole_file(path) as file:
        file.write(content.encode("utf-8", errors="replace"))


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, json.dumps(content, indent=2) + "\n")


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
