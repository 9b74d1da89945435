"""Experiment files anywhere: `experiment=<path of a yaml>` composes as a file of conf/experiment does.

Hydra finds the choices of a group on its search path and in its ConfigStore, nowhere else. A file is therefore read
here and stored there, under its absolute path, percent-encoded: no file of conf/experiment has such a name, and it is
one plain word in Hydra's grammar. The store travels with the jobs that other processes compose.
"""

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast
from urllib.parse import quote, unquote_to_bytes

import yaml
from hydra.core.config_store import ConfigStore
from hydra.plugins.config_source import ConfigSource
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gptlab.errors import UserError

GROUP = "experiment"
SUFFIXES = (".yaml", ".yml")


def with_experiment_files(arguments: list[str]) -> list[str]:
    """The same words, and where one names an experiment by its path, the name by which Hydra finds its content now.

    Raises:
        UserError: where there is no such file, or none that could be an experiment.
    """
    return [_with_file(argument) for argument in arguments]


def _with_file(argument: str) -> str:
    key, _, value = argument.partition("=")
    if key.lstrip("+") != GROUP or not is_path(value):
        return argument
    path = Path(value).expanduser().absolute()
    name = quote(os.fsencode(path), safe="").replace("~", "%7E")
    content, package = _read(path, typed=argument)
    ConfigStore.instance().store(group=GROUP, name=name, node=content, package=package, provider="gptlab")
    return f"{key}={name}"


def with_typed_path(override: str) -> str:
    """The other way: an experiment that was read from a path, as a word to type."""
    key, _, name = override.partition("=")
    path = path_of(name) if key.lstrip("+") == GROUP else None
    return override if path is None else f"{key}={path}"


def is_path(value: str) -> bool:
    """Whether what `experiment=` names is a file; a plain name is one of conf/experiment."""
    return value.endswith(SUFFIXES) or "/" in value or os.sep in value


def path_of(name: str) -> Path | None:
    """Of an experiment that was read from a path; None for one of conf/experiment."""
    path = Path(os.fsdecode(unquote_to_bytes(name)))
    return path if path.is_absolute() else None


def with_paths(message: str) -> str:
    """What Hydra says of a file that was read from a path, with the path."""
    return re.sub(
        rf"(?:{GROUP}/)?([\w%.-]*%(?:2F|5C)[\w%.-]*)", lambda match: str(path_of(match[1]) or match[0]), message
    )


def file_at_fault(error: Exception) -> str:
    """`<path>: ` where Hydra says that the mistake is in an experiment that was read from there."""
    found = re.match(rf"In '{GROUP}/([\w%.-]+)'", str(error))
    path = path_of(found[1]) if found is not None else None
    return f"{path}: " if path is not None else ""


def experiment_name(choice: str | None) -> str:
    """What the runs of an experiment are filed under: its name, or its file's; `default` where there is none."""
    return (path_of(choice or "default") or Path(choice or "default")).stem


def _read(path: Path, *, typed: str) -> tuple[DictConfig, str]:
    """An experiment's content, and the package that it says it belongs to: the global one, where it says nothing."""
    if path.is_dir():
        raise UserError(f"{typed} is a directory: name the .yaml file in it")
    if not path.is_file():
        raise UserError(
            f"{typed}: there is no such file (a plain name, without .yaml and /, is one of conf/experiment)"
        )
    if path.suffix not in SUFFIXES:
        raise UserError(f"{typed} is no .yaml file")
    text = path.read_bytes()
    try:
        header = ConfigSource._get_header_dict(text[:512].decode(errors="ignore"))
        content = OmegaConf.load(io.BytesIO(text))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise UserError(f"{typed} is no yaml file that can be read: {_reason(error)}") from None
    except OSError:  # a number
        content = None
    if not isinstance(content, DictConfig) or not text.strip():
        raise UserError(f"{typed} holds no settings: an experiment is a mapping, such as `max_steps: 100`")
    plain = cast(dict[object, object], OmegaConf.to_container(content))
    for key in _keys(plain):
        if not isinstance(key, str):
            raise UserError(f"{typed}: {key} is no name of a setting")
    if not _is_defaults_list(plain.get("defaults", [])):
        raise UserError(f"{typed}: defaults must be a list of items such as `- override /model: gpt2`")
    return content, header["package"] or "_global_"


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error).splitlines()[0]


def _keys(node: object) -> Iterator[object]:
    """All keys of a tree of dicts and lists."""
    if isinstance(node, dict):
        yield from node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _keys(child)


def _is_defaults_list(node: object) -> bool:
    """Whether Hydra can read it: names, and pairs of a group and what is chosen in it."""

    def is_choice(value: object) -> bool:
        return value is None or all(isinstance(name, str) for name in (value if isinstance(value, list) else [value]))

    return isinstance(node, list) and all(
        isinstance(item, str) or (isinstance(item, dict) and len(item) == 1 and all(map(is_choice, item.values())))
        for item in node
    )
