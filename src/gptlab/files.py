"""Files and directories that are written whole: a reader, a crash or a power failure finds the old or the new one."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import yaml

from gptlab.errors import UserError

PARTIAL = ".tmp"
"""Suffix of a file that is being written. Such files may be deleted when no process writes them any more."""


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write. It takes its name when the block has ended and its content is on the disk.

    If the block or the disk fails, `path` stays as it was and nothing is left beside it.
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
    with suppress(OSError):  # Windows cannot open directories, and some file systems cannot sync them
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # the new name survives a power failure too
        finally:
            os.close(directory)


def give_name(file: Path, name: Path) -> None:
    """Give a file a second name, which replaces what had it. Without hard links the file is renamed."""
    if name.exists() and name.samefile(file):
        return
    link = name.with_name(name.name + PARTIAL)
    link.unlink(missing_ok=True)
    try:
        os.link(file, link)
    except OSError:
        link = file
    link.replace(name)


def write_whole(path: Path, content: str) -> None:
    with whole_file(path) as file:
        file.write(content.encode("utf-8", errors="replace"))


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, json.dumps(content, indent=2) + "\n")


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, as_yaml(content))


def as_yaml(content: dict[str, Any]) -> str:
    """YAML text that PyYAML, libyaml and OmegaConf all read back as `content`."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Quotes text that OmegaConf reads as a number and PyYAML does not (`1e-3`), and text with Unicode line ends."""

    def ignore_aliases(self, data: Any) -> bool:
        return True  # people cannot read `&id001` and `*id001`

    def quote_text(self, text: str) -> yaml.ScalarNode:
        is_ambiguous = re.fullmatch(r"[\d._eE+-]+", text) or re.search("[\x85\u2028\u2029]", text)
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"' if is_ambiguous else None)


_Dumper.add_representer(str, _Dumper.quote_text)


def absolute(to: str) -> Path:
    """The path of a directory to make. Raises UserError if it is the working directory, or one above it."""
    directory = Path(to).expanduser().absolute()
    if Path.cwd().is_relative_to(directory.resolve()):
        raise UserError(f"to={to} is the working directory or one above it: name a new directory")
    return directory


@contextmanager
def made_whole(directory: Path, to: str) -> Iterator[Path]:
    """A directory to fill within the block. It replaces its namesake at the end; if anything fails, it is removed.

    `to` is its name as the user wrote it. Raises UserError if it cannot be written.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as temporary:
            partial = Path(temporary, "partial")
            partial.mkdir()
            yield partial
            if directory.is_dir():
                shutil.rmtree(directory)
            partial.rename(directory)
    except OSError as error:
        raise UserError(f"to={to} cannot be written ({error.strerror or error}): nothing was kept") from None
