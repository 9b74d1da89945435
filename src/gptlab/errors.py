"""The one exception that means: the user can mend this."""

import importlib
from typing import Any


class UserError(Exception):
    """A mistake of the user's: one sentence that says what was wrong, with the value, and what to do.

    The command line prints it as a single line and exits with status 2. The bare packages (model, tokenizer,
    objective, generation, evaluation) raise ValueError instead, so that they stay usable without gptlab around them.
    """


def needed(package: str, *, what: str, extra: str) -> Any:
    """An optional package. Raises UserError, naming what needs it and the extra that brings it, if it is missing."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise UserError(f"{what} needs {package.partition('.')[0]}: pip install 'gptlab[{extra}]'") from None
