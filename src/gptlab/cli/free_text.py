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

from gptlab.build import literal, plain_text
from gptlab.cli.experiment_file import with_typed_path

FREE_TEXT = {
    *("prompt", "stop", "checkpoint", "resume", "resume_sweep", "run_dir", "to", "init_from", "task", "runs"),
    *("callbacks.samples.prompt", "callbacks.attention.prompt", "data.path", "data.cache_dir"),
}
REPEATABLE = {"prompt", "stop", "task", "runs"}
"""Given several times, these make a list; any other key's last value counts."""
NEVER_NULL = {"prompt", "runs"}
"""Here `null` is a text like any other, for they must have one."""


def quote_free_text(arguments: list[str]) -> list[str]:
    """The same overrides in Hydra's grammar, free text quoted, repeated prompts and stops as one list."""
    texts: dict[str, list[str]] = {}
    quoted: list[str] = []
    for argument in arguments:
        key, equals, text = argument.partition("=")
        name = key.lstrip("+")
        if not equals or name not in FREE_TEXT or (text == "null" and name not in NEVER_NULL):
            quoted.append(argument)
        elif name not in REPEATABLE:
            quoted.append(f"{key}={_quote(text)}")
        else:
            texts.setdefault(key, []).append(_quote(text))
    for key, values in texts.items():
        quoted.append(f"{key}={values[0]}" if len(values) == 1 else f"{key}=[{','.join(values)}]")
    return quoted


def plain_words(overrides: list[str]) -> list[str]:
    """The command line words for overrides in Hydra's grammar: what was quoted, or named for Hydra, as it was typed.

    Args:
        overrides: as HydraConfig holds them, or as a sweeper hands them on, who may quote in another way.
    """
    parser = OverridesParser.create()
    words: list[str] = []
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or key.lstrip("+") not in FREE_TEXT:
            words.append(with_typed_path(override))
            continue
        value = parser.parse_override(override).value()
        for text in value if isinstance(value, list) else [value]:
            words.append(f"{key}={'null' if text is None else plain_text(str(text))}")
    return words


def _quote(text: str) -> str:
    r"""A double-quoted Hydra string that stands for this text.

    Two grammars read it. OmegaConf takes `\${` for a literal `${`, and backslashes in front of that in pairs; Hydra
    takes `\"` for a literal quote, and backslashes in front of that, or of the end, in pairs.
    """
    text = re.sub(r'(\\*)("|\Z)', lambda match: match[1] * 2 + (r"\"" if match[2] else ""), literal(text))
    return f'"{text}"'
