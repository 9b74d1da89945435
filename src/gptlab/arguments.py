"""Check the arguments of a call against its signature, with messages for people."""

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

from gptlab.errors import UserError

SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}
Positive = typing.Annotated[int, range(1, 2**63)]
NonNegative = typing.Annotated[int, range(2**63)]


def check_arguments(target: Callable[..., Any], arguments: dict[str, Any], key: str, *, partial: bool = False) -> None:
    """Check names and types; `key` is the place in the configuration that messages name.

    A class of gptlab's that takes `**` passes it on to its base, and has the arguments of that too, and so on.

    Types are checked where gptlab's own code is called; a library checks its own arguments. Of a partial call, other
    arguments come later.

    Raises:
        UserError: on a name that is unknown or missing, or on a value of another type.
    """
    is_ours = (target.__module__ or "").startswith("gptlab.")
    callables: list[Any] = [target]
    if _passes_on(target) and not (is_ours and inspect.isclass(target)):
        return
    while _passes_on(callables[0]):
        callables.insert(0, callables[0].__bases__[0])
    every = {name: its for call in callables for name, its in inspect.signature(call).parameters.items()}
    parameters = {name: its for name, its in every.items() if its.kind is not its.VAR_KEYWORD}
    place, called = f"{key}." if key else "", getattr(target, "__qualname__", str(target))
    for name in arguments:
        if name not in parameters:
            raise UserError(f"{place}{name} is not a setting of {called}{nearest(name, parameters)}")
    for name, parameter in parameters.items():
        if not partial and parameter.default is parameter.empty and name not in arguments:
            raise UserError(f"{place}{name} is missing: {called} needs it")
    if not is_ours:
        return
    hints: dict[str, Any] = {}
    for call in callables:
        hints |= typing.get_type_hints(call.__init__ if inspect.isclass(call) else call, include_extras=True)
    for name, value in arguments.items():
        fits, description = _accepted(hints.get(name, Any))
        if not fits(value):
            raise UserError(f"{place}{name}={'null' if value is None else value} must be {description}")


def _passes_on(call: Callable[..., Any]) -> bool:
    """Whether it takes any further keyword arguments."""
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in inspect.signature(call).parameters.values())


def _accepted(hint: Any) -> tuple[Callable[[Any], bool], str]:
    """A test for values of a type, and its name. Anything passes for a type that is not listed here."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        tests, names = zip(*map(_accepted, inner), strict=True)
        return lambda value: any(test(value) for test in tests), " or ".join(names)
    if kind is typing.Annotated:
        is_number, name = _accepted(inner[0])
        return lambda value: is_number(value) and value in inner[1], f"{name} from {inner[1].start}"
    if kind is typing.Literal:
        return lambda value: value in inner, " or ".join(map(str, inner))
    if kind in (list, tuple):
        test, name = _accepted(inner[0])
        length = None if kind is list or ... in inner else len(inner)
        return (
            lambda value: isinstance(value, list | tuple) and length in (None, len(value)) and all(map(test, value)),
            f"a list of {name}",
        )
    if kind is Callable:
        return callable, "a node with a _target_"
    if hint in (int, float):
        numbers = (int,) if hint is int else (int, float)  # true and nan are none
        return lambda value: type(value) in numbers and value == value, SCALARS[hint]
    return lambda value: hint not in SCALARS or isinstance(value, hint), SCALARS.get(hint, str(hint))


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean x?` if some name is near."""
    match = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {match[0]}?" if match else ""
