"""What a sweep tries: from a configuration's words, and from Hydra's grammar on the command line."""

import itertools
import math
import random
import re
from collections.abc import Iterable
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Quote, QuotedString

from gptlab.cli.free_text import FREE_TEXT
from gptlab.errors import UserError
from gptlab.sweep.space import LISTS, Parameter, Value, parameter

BARE = r"[A-Za-z_][A-Za-z0-9_./-]*"
ENOUGH = 32
"""Trials that are looked at before a search space is refused."""
NOT_TEXT = {"true", "false", "null", "nan", "inf"}


def search_space(
    words: dict[str, Any], overrides: list[str], *, sampler: str, loader: ConfigLoader | None = None
) -> tuple[list[str], list[Parameter]]:
    """The part of a command line that is the same for all trials, and what is swept.

    Args:
        words: of the configuration, `{"optimizer.lr": {"log_uniform": [1e-4, 1e-2]}}`; None takes a key away.
        overrides: the command line, in Hydra's grammar. What it sweeps is added; a value that it gives is that value.
        sampler: by which `a=1,2` means each of the values, or one of them.
        loader: Hydra's, which knows the choices that `model/attention=glob(*)` asks for.

    Raises:
        UserError: on an entry that is no search space.
    """
    entries = {key: parameter(key, _as_overridden(key, node)) for key, node in words.items() if node is not None}
    fixed = []
    for override in OverridesParser.create(config_loader=loader).parse_overrides(overrides):
        key = override.get_key_element()
        entries = {known: entry for known, entry in entries.items() if plain_key(known) != plain_key(key)}
        if override.is_sweep_override():
            entries[key] = parameter(key, _in_words(override, "grid" if sampler == "grid" else "choice"))
        else:
            fixed.append(override.input_line or "")
    return fixed, list(entries.values())


def plain_key(key: str) -> str:
    """Without what an override puts around it: `++optimizer.lr`, `~schedule`, `model/attention@x`."""
    return key.lstrip("+~").partition("@")[0]


def _as_overridden(key: str, node: Any) -> Any:
    """Values that are no numbers become the text that an override has for them."""
    if not isinstance(node, dict):
        return node
    return {
        word: [_text(key, value) for value in content] if word in LISTS and isinstance(content, list) else content
        for word, content in node.items()
    }


def _text(key: str, value: Any) -> Value:
    if isinstance(value, str) and (key in FREE_TEXT or (re.fullmatch(BARE, value) and value.lower() not in NOT_TEXT)):
        return value
    return _plain(_quoted(value))


def _plain(value: Any) -> Value:
    """A number, or the text that an override has for anything else."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, int | float) else Override._get_value_element_as_str(value)


def _quoted(value: Any) -> Any:
    if isinstance(value, str):
        return QuotedString(value, Quote.double)
    if isinstance(value, list):
        return [_quoted(item) for item in value]
    return {key: _quoted(item) for key, item in value.items()} if isinstance(value, dict) else value


def _in_words(override: Override, word: str) -> dict[str, list[Any]]:
    """`a,b`, `choice(...)`, `range(...)` and `glob(...)` are values; `interval(...)` is a range."""
    sweep = override.value()
    if not isinstance(sweep, IntervalSweep):
        return {word: [_plain(value) for value in override.sweep_iterator()]}
    unknown = sweep.tags - {"log"}
    if unknown:
        raise UserError(
            f"the search space of {override.key_or_group}: tag {', '.join(unknown)} is not known, only log is"
        )
    kind = "int" if isinstance(sweep.start, int) else "uniform"
    return {f"log_{kind}" if "log" in sweep.tags else kind: [sweep.start, sweep.end]}


def examples(space: Iterable[Parameter]) -> list[list[str]]:
    """Overrides of some trials, the same each time: all of a small space. Where none is possible, hardly any is."""
    of_each = [[entry.override(value) for value in entry.examples] for entry in space]
    if math.prod(map(len, of_each)) <= ENOUGH:
        return [list(trial) for trial in itertools.product(*of_each)]
    generator = random.Random(0)
    return [[generator.choice(words) for words in of_each] for _ in range(ENOUGH)]
