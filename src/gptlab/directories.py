"""Directories that are made whole or not at all."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from gptlab.errors import UserError
from gptlab.files import sync_directory


def absolute(to: str) -> Path:
    """Where a directory will be made. Raises UserError where that is the working directory, or one above it."""
    directory = Path(to).expanduser().absolute()
    if Path.cwd().is_relative_to(directory.resolve()):
        raise UserError(f"to={to} is where you stand: name a directory that is made anew")
    return directory


@contextmanager
def made_whole(directory: Path, to: str, *, clear: Callable[[Path], None]) -> Iterator[Path]:
    """A directory to fill, which gets its name when it is whole, and is gone when it cannot be.

    Args:
        directory: its final name.
        to: as the user wrote it, for messages.
        clear: takes a directory away that has the name by then.

    Raises:
        UserError: where it cannot be written.
    """
    partial = directory.with_name(f".{directory.name}.{uuid4().hex[:8]}.partial")
    new_parents = [parent for parent in directory.parents if not parent.exists()]
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in partial.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        if directory.is_dir():
            clear(directory)
        partial.rename(directory)
        sync_directory(directory.parent)
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise UserError(f"to={to} cannot be written ({reason}): nothing of it was kept") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):  # the first that is not empty ends it
            for parent in new_parents:
                parent.rmdir()
