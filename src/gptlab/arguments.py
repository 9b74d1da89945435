"""Check the arguments of a call against its signature, with messages for people."""

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

from gptlab.errors import UserError

SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}


def check_arguments(target: Callable[..., Any], arguments: dict[str, Any], key: str, *, partial: bool = False) -> None:
    """Check names and types; `key` is the place in the configuration that messages name.

    Types are checked where gptlab's own code is called; a library checks its own arguments. Of a partial call, other
    arguments come later.

    Raises:
        UserError: on a name that is unknown or missing, or on a value of another type.
    """
    parameters = inspect.signature(target).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    place, called = f"{key}." if key else "", getattr(target, "__qualname__", str(target))
    for name in arguments:
        if name not in parameters:
            raise UserError(f"{place}{name} is not a setting of {called}{nearest(name, parameters)}")
    for name, parameter in parameters.items():
        if not partial and parameter.default is parameter.empty and name not in arguments:
            raise UserError(f"{place}{name} is missing: {called} needs it")
    if not (target.__module__ or "").startswith("gptlab."):
        return
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    for name, value in arguments.items():
        if name in hints and not _fits(value, hints[name]):
            raise UserError(f"{place}{name}={'null' if value is None else value} must be {_describe(hints[name])}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type. Scalars, sequences, callables and unions are judged, other types are not."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        return any(_fits(value, alternative) for alternative in inner)
    if hint in (int, float):
        is_number = isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
        return is_number and value == value  # nan is not
    if kind in (list, tuple):
        has_any_length = kind is list or ... in inner
        fits_length = isinstance(value, list | tuple) and (has_any_length or len(value) == len(inner))
        return fits_length and all(_fits(element, inner[0]) for element in value)
    if kind is Callable:
        return callable(value)
    return isinstance(value, hint) if hint in SCALARS else True


def _describe(hint: Any) -> str:
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        return " or ".join(map(_describe, inner))
    if kind in (list, tuple):
        return f"a list of {_describe(inner[0])}"
    return "a node with a _target_" if kind is Callable else SCALARS.get(hint, str(hint))


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean x?` if some name is near."""
    match = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {match[0]}?" if match else ""
