"""Hold the arguments of a call against its signature, with messages for people."""

import difflib
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

from gptlab.errors import UserError

SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}


def check_arguments(target: Callable[..., Any], arguments: dict[str, Any], key: str, *, partial: bool = False) -> None:
    """Bind names and types to a signature; `key` is the place in the configuration that messages name.

    Types are checked where gptlab's own code is called; a library checks its own arguments.

    Raises:
        UserError: on a name that is unknown or missing, or on a value of another type.
    """
    parameters = inspect.signature(target).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    place = f"{key}." if key else ""
    for name in arguments:
        if name not in parameters:
            raise UserError(f"{place}{name} is not a setting of {_name(target)}{nearest(name, parameters)}")
    if not partial:
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and name not in arguments:
                raise UserError(f"{place}{name} is missing: {_name(target)} needs it")
    if not (target.__module__ or "").startswith("gptlab."):
        return
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    for name, value in arguments.items():
        if name in hints and not _fits(value, hints[name]):
            shown = "null" if value is None else value
            raise UserError(f"{place}{name}={shown} must be {_describe(hints[name])}")


def _name(target: Any) -> str:
    return getattr(target, "__qualname__", str(target))


def _alternatives(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a scalar type, or of a sequence of them; other hints are not judged."""

    def fits_one(hint: Any) -> bool:
        if hint is float:
            return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
        if hint is int:
            return isinstance(value, int) and not isinstance(value, bool)
        if hint in SCALARS:
            return isinstance(value, hint)
        if typing.get_origin(hint) in (list, tuple):
            items = [item for item in typing.get_args(hint) if item is not ...]
            return (
                isinstance(value, list | tuple)
                and (typing.get_origin(hint) is list or ... in typing.get_args(hint) or len(value) == len(items))
                and all(any(_fits(element, item) for item in items) for element in value)
            )
        if typing.get_origin(hint) is Callable:
            return callable(value)
        return True

    return any(fits_one(alternative) for alternative in _alternatives(hint))


def _describe(hint: Any) -> str:
    def describe_one(hint: Any) -> str:
        if typing.get_origin(hint) in (list, tuple):
            items = typing.get_args(hint)
            inner = " and ".join(_describe(item) for item in items if item is not ...)
            return f"a list of {inner}"
        if typing.get_origin(hint) is Callable:
            return "a node with a _target_"
        return SCALARS.get(hint, str(hint))

    return " or ".join(describe_one(alternative) for alternative in _alternatives(hint))


def nearest(name: str, names: Iterable[str]) -> str:
    """`, did you mean x?` where some name is near."""
    match = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {match[0]}?" if match else ""
