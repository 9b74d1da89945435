"""The search space of a sweep, from the configuration and from Hydra's grammar on the command line."""

import re
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Quote, QuotedString, Transformer

from gptlab.cli.free_text import FREE_TEXT
from gptlab.errors import UserError
from gptlab.sweep.space import LISTS, Cases, Parameter, Value, parameter

PLAIN_TEXT = re.compile(r"(?!(true|false|null|nan|inf)$)[a-z_][a-z0-9_./-]*", re.IGNORECASE)


def search_space(
    space: dict[str, Any], overrides: list[str], *, sampler: str, loader: ConfigLoader | None = None
) -> tuple[list[str], list[Parameter]]:
    """The overrides that all trials share, and the swept keys. Raises UserError on what is not a search space.

    Args:
        space: hydra.sweeper.space, `{"optimizer.lr": {"log_uniform": [1e-4, 1e-2]}}`; null removes a key. Cases are
            the values of a key `case`.
        overrides: the command line, in Hydra's grammar. It adds keys; a key that it gives a single value is not swept.
        sampler: `a=1,2` means each of the values for `grid`, one of them for others.
        loader: knows the choices that `model/attention=glob(*)` asks for.
    """
    entries = {key: parameter(key, _as_overrides(key, node)) for key, node in space.items() if node is not None}
    fixed = []
    for override in OverridesParser.create(config_loader=loader).parse_overrides(overrides):
        key = override.get_key_element()
        if isinstance(cases := entries.get(key), Cases):
            is_list = override.is_sweep_override()
            entries[key] = cases.only([*override.sweep_iterator()] if is_list else [override.value()])
            continue
        entries = {known: entry for known, entry in entries.items() if plain_key(known) != plain_key(key)}
        if override.is_sweep_override():
            entries[key] = parameter(key, _node(override, "grid" if sampler == "grid" else "choice"))
        else:
            fixed.append(override.input_line or "")
    return fixed, list(entries.values())


def plain_key(argument: str) -> str:
    """The key of an override without what may stand around it: `++optimizer.lr=1`, `~schedule`, `model/attention@x`."""
    return argument.partition("=")[0].lstrip("+~").partition("@")[0]


def _as_overrides(key: str, node: Any) -> Any:
    """An entry of the configuration, the values of a list as an override has them."""
    if not isinstance(node, dict) or not node.keys() & set(LISTS):
        return node

    def as_override(value: Any) -> Value:
        is_plain = isinstance(value, str) and (key in FREE_TEXT or PLAIN_TEXT.fullmatch(value) is not None)
        return value if is_plain else _number_or_text(_quoted(value))

    return {kind: [*map(as_override, values)] if isinstance(values, list) else values for kind, values in node.items()}


def _number_or_text(value: Any) -> Value:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, int | float) else Transformer.str(value)


def _quoted(value: Any) -> Any:
    if isinstance(value, str):
        return QuotedString(value, Quote.double)
    if isinstance(value, list):
        return [_quoted(item) for item in value]
    return {key: _quoted(item) for key, item in value.items()} if isinstance(value, dict) else value


def _node(override: Override, kind: str) -> dict[str, list[Any]]:
    """`a,b`, `choice(...)`, `range(...)` and `glob(...)` are values; `interval(...)` is a range."""
    sweep = override.value()
    if not isinstance(sweep, IntervalSweep):
        return {kind: [_number_or_text(value) for value in override.sweep_iterator()]}
    if unknown := sweep.tags - {"log"}:
        raise UserError(f"the search space of {override.key_or_group}: the tag is log, not {', '.join(unknown)}")
    kind = "int" if isinstance(sweep.start, int) else "uniform"
    return {f"log_{kind}" if "log" in sweep.tags else kind: [sweep.start, sweep.end]}
