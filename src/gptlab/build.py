"""From configuration to objects: the one place that instantiates.

A configuration is plain data here (dicts, lists, scalars): Hydra has composed and resolved it. A node with a `_target_`
becomes what the target returns for its other keys. `_partial_: true` makes a function of the remaining arguments.
Data and training are reached through their `_target_` alone, so that building a model imports no Lightning.
"""

import functools
import re
import typing
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from torch.overrides import TorchFunctionMode

from gptlab.arguments import check_arguments
from gptlab.errors import UserError
from gptlab.model import LanguageModel

Config = dict[str, Any]
S = TypeVar("S")

LATE_GROUPS = {"logger", "callbacks"}
"""Their interpolations name the run directory. `instantiate_group` fills them in, because it is known last."""


def resolve(cfg: DictConfig) -> Config:
    """Plain data with the interpolations filled in, except in LATE_GROUPS.

    Raises an error of OmegaConf's if a value is missing or refers to nothing.
    """
    config = typing.cast(Config, OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    late = {group: OmegaConf.to_container(cfg[group]) for group in LATE_GROUPS if config.get(group)}
    return {**config, **late}


def settings_of(schema: Callable[..., S], settings: Config, key: str = "") -> S:
    """What a class or function returns for these settings; `key` is their place in the configuration, for messages.

    Raises:
        UserError: on a name that is unknown or missing, on a value of another type, or on a ValueError of its own.
    """
    check_arguments(schema, settings, key)
    return _explained(schema, key)(**settings)


def part(config: Config, group: str) -> Any:
    """What the node of a group describes: data, objective, schedule ..."""
    return construct(config[group], key=group)


def tokenizer_factory(config: Config) -> functools.partial[Any]:
    """A callable that trains the tokenizer: documents -> tokenizer.

    Raises:
        UserError: if training on nothing already refuses the settings.
    """
    node = config["tokenizer"]
    train = _locate(node, "tokenizer").train
    settings = {key: value for key, value in node.items() if not key.startswith("_")}
    settings_of(train, {"documents": [], **settings}, "tokenizer")
    return functools.partial(train, **settings)


def model(config: Config, vocab_size: int) -> LanguageModel:
    """The model for a vocabulary of this size, with fresh weights from torch's generator."""
    return construct(config["model"], key="model", vocab_size=vocab_size)


def meta_model(config: Config, vocab_size: int, *, device: str = "meta") -> LanguageModel:
    """The model without memory for its weights: for checks, or to be filled.

    Within a mode of tensors without memory, `device` is the device that they claim to be on.
    """
    with _WithoutInit(), torch.device(device):
        return model(config, vocab_size)


class _WithoutInit(TorchFunctionMode):
    """Turns torch.nn.init off: on the meta device, normal_ would import sympy, which takes a second."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: Config | None = None) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return function(*args, **(kwargs or {}))


def optimizer(config: Config) -> Callable[[torch.nn.Module], torch.optim.Optimizer]:
    """A factory: model -> optimizer. A class such as torch.optim.SGD gets the model's parameters."""
    factory, target = part(config, "optimizer"), _locate(config["optimizer"], "optimizer")
    if isinstance(target, type) and issubclass(target, torch.optim.Optimizer):
        return lambda model: factory(model.parameters())
    return factory


def flatten(config: Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and the values that are not nodes."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def literal(value: Any) -> Any:
    r"""Text that OmegaConf leaves as it is: `${` written as `\${`, and backslashes in front of it in pairs."""
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", value) if isinstance(value, str) else value


def instantiate_group(config: Config, group: str) -> list[Any]:
    """The loggers or the callbacks: a group of named nodes; null switches one off."""
    root = {key: literal(value) for key, value in config.items() if not isinstance(value, dict | list)}
    filled = OmegaConf.create({**root, group: config.get(group) or {}})
    nodes = typing.cast(Config, OmegaConf.to_container(filled, resolve=True))[group]
    for name, node in nodes.items():
        if node is not None and not (isinstance(node, dict) and "_target_" in node):
            raise UserError(f"{group}.{name} has no _target_: name the class, or set {group}.{name}=null")
    return [construct(node, key=f"{group}.{name}") for name, node in nodes.items() if node is not None]


def construct(node: Any, *, key: str, **runtime: Any) -> Any:
    """What a node's `_target_` returns. A node without one is itself.

    `key` is the node's place in the configuration, for messages; `runtime` are arguments known at run time only.

    Raises:
        UserError: unknown target, key or type, or a value that the target refuses.
    """
    if isinstance(node, list):
        return [construct(item, key=f"{key}[{index}]") for index, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    inner = {name: construct(value, key=f"{key}.{name}") for name, value in node.items() if not name.startswith("_")}
    if "_target_" not in node:
        return inner
    target, arguments, is_partial = _locate(node, key), {**inner, **runtime}, node.get("_partial_", False)
    check_arguments(target, arguments, key, partial=is_partial)
    make = functools.partial(_explained(target, key), **arguments)
    return make if is_partial else make()


def _locate(node: Config, key: str) -> Any:
    """The class or function that a node names."""
    try:
        return get_object(node["_target_"])
    except Exception as error:  # of a module of the user's
        reason = " ".join(str(error).split())
        raise UserError(f"{key}._target_={node['_target_']} cannot be imported: {reason}") from None


def _explained(target: Callable[..., Any], key: str) -> Callable[..., Any]:
    """The same callable; a ValueError of its own checks becomes a UserError that names the group."""

    @functools.wraps(target, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return target(*args, **kwargs)
        except ValueError as error:
            message = " ".join(str(error).split())
            separator = "." if re.match(r"\w+=", message) else ": "  # `name=value` begins an override
            raise UserError(f"{key}{separator if key else ''}{message}") from None
        except TypeError as error:  # of a partial call
            missing = re.search(r"missing \d+ required .*: '(\w+)'", str(error))
            raise (UserError(f"{key}.{missing[1]} is missing") if missing else error) from None

    return call
