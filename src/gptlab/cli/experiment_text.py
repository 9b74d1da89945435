"""An experiment file that repeats a run: what its command line composed to, written down.

It names the choices of groups that differ from train.yaml's own, and then the values that differ from what these
choices alone compose to:

    # @package _global_
    # The best of 12 trials.
    defaults:
    - override /tokenizer: char
    optimizer:
      lr: 0.002
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from gptlab.build import LATE_GROUPS, Config, literal, plain_text
from gptlab.cli.experiment_file import GROUP, with_experiment_files
from gptlab.cli.explain import CONF
from gptlab.cli.free_text import quote_free_text
from gptlab.files import as_yaml
from gptlab.sweep.space import Parameter, Value, Values

NOT_OF_THE_EXPERIMENT = ("hydra", "sweep", "resume_sweep", "run_dir", "resume")
NO_CHOICES = (GROUP, "sweep", "hydra")
PATHS = (("data", "path"), ("data", "cache_dir"), ("", "init_from"))

Choices = dict[str, str | None]


def experiment_of(words: list[str], *, comment: str, searched: Iterable[str] = ()) -> str:
    """The text of an experiment file that alone composes to what these command line words compose to.

    Interpolations stay as they are written; relative paths of data and of the weights to start from become absolute.
    A file can set values, but not take them away: a logger or callback that is gone is null in it, and of anything
    else that is gone its comment tells.

    Args:
        words: the command line of a run, as typed: overrides, which may name an experiment, also by its path, and
            Hydra's flags. Where `is_of_root` says so of one, the file goes with it.
        comment: lines that say what it is.
        searched: keys that are written down in any case, also where their values are the defaults of today.

    Raises:
        UserError: where the experiment that the words name is not there.
    """
    root = [word for word in words if is_of_root(word)]
    overrides = [word for word in words if not word.startswith(("--", "hydra."))]
    composed = _compose(root, quote_free_text(with_experiment_files(overrides)))
    wanted = plain_config(composed)
    make_paths_absolute(wanted)
    choices, start = _differing_choices(root, _choices(composed))
    values = _difference(start, wanted)
    for key in searched:
        if key in _choices(composed):
            choices[key] = _choices(composed)[key]
        else:
            _copy_value(key.lstrip("+").split("."), wanted, values)
    for keys in _gone(start, wanted):
        group, *names = keys
        if group in LATE_GROUPS and len(names) == 1:
            values.setdefault(group, {})[names[0]] = None
        else:
            comment += f"\nNot in this file, which can take no setting away: ~{'.'.join(keys)}"
    defaults = [{f"override /{group}": choice} for group, choice in choices.items()]
    content = {**({"defaults": defaults} if defaults else {}), **values}
    lines = ["# @package _global_", *as_comments(comment)]
    return "\n".join(lines) + "\n" + as_yaml(content)


def is_of_root(word: str) -> bool:
    """Whether a word of a command line says where configurations lie, or which is the first of them."""
    return word.startswith(("--config-path=", "--config-dir=", "--config-name=", "hydra.searchpath="))


def _compose(root: list[str], overrides: list[str]) -> DictConfig:
    """What `gptlab train` composes, the hydra node included; whatever Hydra is doing meanwhile does not notice.

    Args:
        root: the words of which `is_of_root` holds, directories absolute.
        overrides: in Hydra's grammar.
    """
    version.setbase("1.3")
    flags = dict(word.removeprefix("--").split("=", 1) for word in root if word.startswith("--"))
    path = create_config_search_path(flags.get("config-path", str(CONF)))
    if "config-dir" in flags:
        path.prepend("command-line", f"file://{flags['config-dir']}", anchor=SearchPathQuery(provider="schema"))
    searched = [word for word in root if not word.startswith("--")]
    name = flags.get("config-name", "train")
    return ConfigLoaderImpl(path).load_configuration(name, [*searched, *overrides], run_mode=RunMode.RUN)


def _choices(composed: DictConfig) -> Choices:
    """Of every group, also of those within groups, but for the ones that an experiment does not decide."""
    choices = composed.hydra.runtime.choices
    return {group: choices[group] for group in choices if group.partition("/")[0] not in NO_CHOICES}


def _differing_choices(root: list[str], wanted: Choices) -> tuple[Choices, Config]:
    """The choices that lead from train.yaml's own to the wanted ones, and what they alone compose to.

    None where nothing is chosen in a group. A choice brings its own choices in the groups within it, so that those are
    compared when it is made.
    """
    made: Choices = {}
    while True:
        words = [f"~{group}" if name is None else f"{group}={name}" for group, name in made.items()]
        composed = _compose(root, words)
        now = _choices(composed)
        differing = {group for group in now if group not in made and now[group] != wanted.get(group)}
        if not differing:
            return made, plain_config(composed)
        outermost = (group for group in differing if not any(group.startswith(f"{other}/") for other in differing))
        made.update({group: wanted.get(group) for group in sorted(outermost)})


def plain_config(composed: DictConfig) -> Config:
    """What an experiment can decide, as plain data with the interpolations as they are written."""
    config = cast(Config, OmegaConf.to_container(composed))
    return {name: value for name, value in config.items() if name not in NOT_OF_THE_EXPERIMENT}


def make_paths_absolute(config: Config) -> None:
    """So that they hold from anywhere; one with an interpolation in it is left as it is."""
    for group, name in PATHS:
        node = config.get(group) if group else config
        written = node.get(name) if isinstance(node, dict) else None
        if not isinstance(node, dict) or not isinstance(written, str) or literal(plain_text(written)) != written:
            continue
        path = Path(plain_text(written)).expanduser().absolute()
        if written and (name != "init_from" or path.exists()):
            node[name] = literal(str(path))


def with_absolute_paths(entry: Parameter) -> Parameter:
    """A swept key, so that its values mean the same from anywhere."""
    group, _, name = entry.key.rpartition(".")
    if not isinstance(entry, Values) or (group, name) not in PATHS:
        return entry
    values: list[Value] = []
    for value in entry.values:
        node = {name: literal(value)}
        config = {group: node} if group else node
        make_paths_absolute(config)
        values.append(plain_text(node[name]) if isinstance(value, str) and value != "null" else value)
    return replace(entry, values=tuple(values))


def _difference(start: Config, wanted: Config) -> Config:
    """The values that turn one tree into the other, where nothing has to be taken away."""
    differing: Config = {}
    for key, value in wanted.items():
        before = start.get(key)
        if key in start and isinstance(before, dict) and isinstance(value, dict):
            if inner := _difference(before, value):
                differing[key] = inner
        elif key not in start or repr(before) != repr(value):  # 1 is not true, and not 1.0
            differing[key] = value
    return differing


def _copy_value(path: list[str], source: Config, target: Config) -> None:
    *parents, name = path
    for part in parents:
        source, target = source.get(part) or {}, target.setdefault(part, {})
    if name in source:
        target[name] = source[name]


def _gone(start: Config, wanted: Config) -> Iterator[tuple[str, ...]]:
    """What one tree has and the other has not."""
    for key, value in start.items():
        if key not in wanted:
            yield (key,)
        elif isinstance(value, dict) and isinstance(wanted[key], dict):
            yield from ((key, *keys) for keys in _gone(value, wanted[key]))


def as_comments(text: str) -> list[str]:
    """Lines that YAML leaves out, and that Hydra takes for no header (`# @package model`), whatever is in them."""
    printable = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return [("# " + re.sub("^( *)@", r"\1(at) ", line)).rstrip() for line in printable.splitlines()]
