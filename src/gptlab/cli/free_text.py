r"""Free text on the command line means itself.

Hydra reads `prompt=Hello, I am` as a sweep over two values and stumbles over quotes, brackets and `=`. The values of
the keys below are therefore quoted before Hydra sees them:

>>> quote_free_text(["prompt=What's up?", "seed=3"])
['prompt="What\'s up?"', 'seed=3']
>>> plain_words(['prompt="What\'s up?"', 'seed=3'])
["prompt=What's up?", 'seed=3']
"""

import re

from hydra.core.override_parser.overrides_parser import OverridesParser

from gptlab.build import literal
from gptlab.sweep.space import CASE

FREE_TEXT = {
    *("prompt", "stop", "checkpoint", "resume", "resume_sweep", "run_dir", "to", "init_from", "task", "runs", "ngram"),
    *("text", "path", "base", "column"),
    *("hydra.sweeper.ngram", "callbacks.samples.prompt", "callbacks.attention.prompt"),
    *("data.path", "data.val_path", "data.cache_dir"),
}
REPEATABLE = {"prompt", "stop", "task", "runs", "text"}
"""Given several times, these make a list; any other key's last value counts."""
NEVER_NULL = {"prompt", "runs", "text"}
"""Here `null` is a text like any other, because they must have one."""


def key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def texts(value: str | list[str] | None) -> list[str]:
    """What a repeatable key has been given."""
    return [value] if isinstance(value, str) else value or []


def quote_free_text(arguments: list[str]) -> list[str]:
    """The overrides in Hydra's grammar: free text quoted, repeated keys as one list."""
    quoted: list[str] = []
    repeated: dict[str, list[str]] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        name = key.lstrip("+")
        if name == CASE and equals and not text.startswith("choice("):
            quoted.append(f"{key}=choice({text})")  # Hydra leaves a sweep's values, even a single one, to the sweeper
        elif not equals or name not in FREE_TEXT or (text == "null" and name not in NEVER_NULL):
            quoted.append(argument)
        elif name in REPEATABLE:
            repeated.setdefault(key, []).append(_quote(text))
        else:
            quoted.append(f"{key}={_quote(text)}")
    return quoted + [f"{k}={v[0]}" if len(v) == 1 else f"{k}=[{','.join(v)}]" for k, v in repeated.items()]


def plain_words(overrides: list[str]) -> list[str]:
    """Overrides in Hydra's grammar, as they were typed: the inverse of `quote_free_text`, however they are quoted."""
    parser = OverridesParser.create()
    words: list[str] = []
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or key.lstrip("+") not in FREE_TEXT:
            words.append(override)
            continue
        value = parser.parse_override(override).value()
        for text in value if isinstance(value, list) else [value]:
            words.append(f"{key}={'null' if text is None else _not_literal(str(text))}")
    return words


def _quote(text: str) -> str:
    r"""A double-quoted Hydra string that stands for this text.

    Two grammars read it. OmegaConf takes `\${` for a literal `${`, and backslashes in front of that in pairs; Hydra
    takes `\"` for a literal quote, and backslashes in front of that, or of the end, in pairs.
    """
    text = re.sub(r'(\\*)("|\Z)', lambda match: match[1] * 2 + (r"\"" if match[2] else ""), literal(text))
    return f'"{text}"'


def _not_literal(text: str) -> str:
    """What `literal` was given."""
    return re.sub(r"(\\*)\\\$\{", lambda match: match[1][: len(match[1]) // 2] + "${", text)
