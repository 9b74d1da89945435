"""Files that are written whole: a reader, a crash or a power failure finds the old file or the new one."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import yaml

PARTIAL = ".tmp"
"""Behind the name of a file that is being written; whatever bears it may be deleted once its writer has gone."""


@contextmanager
def whole_file(path: Path, *, check: Callable[[Path], None] = lambda partial: None) -> Iterator[IO[bytes]]:
    """A file to write, which takes its name when the block has ended and all of it is on the disk.

    Where the block, the disk or the check fails, what `path` held before stays, and nothing is left beside it.

    Args:
        path: its name.
        check: gets the file when it is on the disk, before it has its name.

    Raises:
        OSError: where it cannot be written.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            to_disk(file.fileno())
        check(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def to_disk(descriptor: int) -> None:
    """Through all caches, that of the disk itself included, for which macOS wants to be asked by another name."""
    if sys.platform == "darwin":
        import fcntl

        with suppress(OSError):  # not every file system has it
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def sync_directory(directory: Path) -> None:
    """Make new names in a directory survive a power failure, where the system has a way to do so."""
    with suppress(OSError):  # Windows opens no directory, and some file systems of others sync none
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def give_name(file: Path, name: Path) -> None:
    """Let a file have a second name, in place of what had it; where there are no links, instead of its first."""
    if name.exists() and name.samefile(file):
        return
    link = name.with_name(name.name + PARTIAL)
    link.unlink(missing_ok=True)
    try:
        os.link(file, link)
    except OSError:
        file.replace(name)
    else:
        link.replace(name)


def write_whole(path: Path, content: str) -> None:
    with whole_file(path) as file:
        file.write(content.encode("utf-8", errors="replace"))


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, json.dumps(content, indent=2) + "\n")


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, as_yaml(content))


def as_yaml(content: dict[str, Any]) -> str:
    """Text that PyYAML, libyaml and OmegaConf read as this very content."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Quotes texts that OmegaConf takes for numbers (`1e-3`, to PyYAML none), and escapes Unicode's ends of lines.

    PyYAML writes those as they are, and may forget them when it reads.
    """

    def ignore_aliases(self, data: Any) -> bool:
        return True  # `&id001` and `*id001`, for a list that stands in two places, are nothing for people


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    quoted = _is_number(text) or not {"\x85", "\u2028", "\u2029"}.isdisjoint(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if quoted else None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_Dumper.add_representer(str, _represent_text)
