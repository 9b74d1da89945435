"""In what runs differ, in few words: which of them are one line of the picture, and what it is called."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptlab.comparison.runs import Run

BESIDE_THE_POINT = {
    *("seed", "run_dir", "resume", "check_device", "save_every", "validate_every"),
    *("data.num_workers", "data.cache_dir"),
}
"""Settings that leave alone what is trained, or of which the mean is taken; so do loggers and gptlab's callbacks."""

FOLLOWING = {"model.context_length": "context_length", "schedule.total_steps": "max_steps"}
"""Settings that conf/ takes over from the root: the root's is enough."""

TARGET = "_target_"
MOST_KEYS = 6
"""In a label: of more, as between two experiments, nobody would read them."""
MOST_WHOLE_KEYS = 2
"""More are shortened to their last word."""
MOST_DIRECTORIES = 3
DIGITS = range(4, 18)
"""Of a number in a label: as few as tell all configurations apart."""

Group = tuple[str, list[Run]]
"""Runs that make one line, behind its label."""


def group(runs: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """Those that differ in nothing but the seed together, each group with a label: what differs between them.

    Where nothing differs, or too much, or where a configuration is not known, the label is the directory's name.

    Returns:
        The groups, and what is to be said of their labels.
    """
    by_settings: dict[str, list[Run]] = {}
    for run in runs:
        settings = _what_matters(run)
        alike = f"in {run.directory}" if settings is None else repr(sorted(settings.items()))
        by_settings.setdefault(alike, []).append(run)
    groups = list(by_settings.values())
    labels = _directory_names(groups)
    notes = [
        f"{label}: its config.yaml is missing or not as the run wrote it, so this is a line of its own"
        for label, (run, *_) in zip(labels, groups, strict=True)
        if run.settings is None
    ]
    known = [index for index, (run, *_) in enumerate(groups) if run.settings is not None]
    configs = [_what_matters(groups[index][0]) or {} for index in known]
    keys = _differing(configs)
    if len(keys) > MOST_KEYS:
        shown = ", ".join(_key_words(keys)[key] for key in keys[:MOST_KEYS])
        notes.append(f"the lines are named by directory: they differ in {len(keys)} settings ({shown}, ...)")
    elif keys:
        for index, label in zip(known, _labels(configs, keys), strict=True):
            labels[index] = label
    return list(zip(labels, groups, strict=True)), notes


def seeds(runs: Sequence[Run]) -> str:
    """`3 seeds`, or `2 runs` where a seed is there twice; nothing for a single run."""
    different = {run.settings.get("seed") for run in runs if run.settings is not None}
    return "" if len(runs) == 1 else f"{len(runs)} {'seeds' if len(different) == len(runs) else 'runs'}"


def _what_matters(run: Run) -> dict[str, Any] | None:
    settings = run.settings
    if settings is None:
        return None
    return {key: _as_meant(value) for key, value in settings.items() if _matters(key, settings)}


def _as_meant(value: Any) -> Any:
    """`model.dropout=0` on a command line is the 0.0 of a yaml."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _matters(key: str, settings: dict[str, Any]) -> bool:
    top, _, rest = key.partition(".")
    if top == "logger" or key in BESIDE_THE_POINT:
        return False
    if top == "callbacks":  # of others, such as an average of weights: it may change what is trained
        target = settings.get(f"callbacks.{rest.partition('.')[0]}.{TARGET}")
        return target is not None and not str(target).startswith("gptlab.")
    name = key.rpartition(".")[2]
    return name == TARGET or not name.startswith("_")


# -- labels by configuration -----------------------------------------------------------------------------------------


def _labels(configs: list[dict[str, Any]], keys: list[str]) -> list[str]:
    """One for each configuration, from its values of these keys, with as few digits as tell all apart."""
    words = _key_words(keys)
    labels: list[str] = []
    for digits in (*DIGITS, None):
        texts = [_value_texts(key, [config.get(key, ...) for config in configs], digits) for key in keys]
        parts = (zip(words.values(), of_one, strict=True) for of_one in zip(*texts, strict=True))
        labels = [" ".join(f"{word}={text}" for word, text in part if text is not None) for part in parts]
        labels = [label or f"without {words[keys[0]]}" for label in labels]
        if len({*labels}) == len(labels):
            break
    return labels


def _differing(configs: list[dict[str, Any]]) -> list[str]:
    """The keys with several values, but for those that follow from others."""
    keys = dict.fromkeys(key for config in configs for key in config)
    values = {key: [repr(config.get(key, ...)) for config in configs] for key in keys}
    differing = [key for key in keys if len({*values[key]}) > 1]
    targets = [key for key in differing if key.rpartition(".")[2] == TARGET]

    def follows(key: str) -> bool:
        if key in FOLLOWING:
            return values[key] == values.get(FOLLOWING[key])
        if len({*values[key]} - {repr(...)}) > 1:
            return False  # not every choice of another part has it, but those that have it differ in it
        of_another = (t for t in targets if t != key and key.startswith(t.removesuffix(TARGET)))
        return any(len({*zip(values[t], values[key], strict=True)}) == len({*values[t]}) for t in of_another)

    return [key for key in differing if not follows(key)]


def _key_words(keys: list[str]) -> dict[str, str]:
    """Each key as an override names it; where there are many, by its last word, if that is no other's."""
    words = {key: key.removesuffix(f".{TARGET}").replace(".", "/") if key.endswith(TARGET) else key for key in keys}
    if len(keys) <= MOST_WHOLE_KEYS:
        return words
    last = {key: word.replace("/", ".").rpartition(".")[2] for key, word in words.items()}
    return {key: last[key] if [*last.values()].count(last[key]) == 1 else words[key] for key in keys}


def _value_texts(key: str, values: list[Any], digits: int | None) -> list[str | None]:
    """In few characters, or all there is to say; None for a setting that is not there.

    Different values have different texts, but for numbers that are cut to so many digits.
    """
    if digits is None:
        return [None if value is ... else repr(value) for value in values]
    texts = [_choice(value) if key.endswith(TARGET) else _short(value, digits) for value in values]
    words = {(repr(value), text) for value, text in zip(values, texts, strict=True) if not isinstance(value, float)}
    if len({text for _, text in words}) < len(words):
        texts = [str(value) for value in values]
    return [None if value is ... else text for value, text in zip(values, texts, strict=True)]


def _choice(target: Any) -> str:
    """The name of gptlab's yaml, which is that of the file a class is in, or of a function; of others the class's."""
    *_, module, name = ["", *str(target).split(".")]
    return module if str(target).startswith("gptlab.") and not name.islower() else name


def _short(value: Any, digits: int) -> str:
    """As in an override; a number with so many digits where it has more than six, a path by its name.

    >>> [_short(value, 4) for value in (0.00038271645, 0.99995, None, [0.9, 0.95], "/data/book.txt")]
    ['0.0003827', '0.99995', 'null', '[0.9,0.95]', 'book.txt']
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        text = f"{value:.6g}"
        return (text if float(text) == value else f"{value:.{digits}g}").replace("e-0", "e-")
    if isinstance(value, list):
        return f"[{','.join(_short(item, digits) for item in value)}]"
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else str(value)


# -- labels by directory ---------------------------------------------------------------------------------------------


def _directory_names(groups: list[list[Run]]) -> list[str]:
    """For each group its runs' directories, as seen from the one that holds all."""
    base = os.path.commonpath([run.directory.parent for runs in groups for run in runs])
    names = [[os.path.relpath(run.directory, base) for run in runs] for runs in groups]
    return [", ".join(some[:MOST_DIRECTORIES]) + (", …" if len(some) > MOST_DIRECTORIES else "") for some in names]
