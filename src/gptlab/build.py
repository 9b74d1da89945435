"""From configuration to objects: the one place that instantiates.

A configuration is plain data here (dicts, lists, scalars): Hydra has composed and resolved it. A node with a `_target_`
becomes what the target returns for the node's other keys; `_partial_: true` leaves the call to whoever has the rest.
Data and training are reached through their `_target_` alone, so that building a model imports no Lightning.
"""

import difflib
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from gptlab.errors import UserError
from gptlab.generation.sampling import make_sampler
from gptlab.model import GPT
from gptlab.tokenizer import Tokenizer

Config = dict[str, Any]

STAND_IN_VOCABULARY = 1000

TRAINER_IS_OURS = {
    *("max_steps", "min_steps", "max_epochs", "min_epochs", "limit_train_batches", "overfit_batches"),
    *("val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps", "log_every_n_steps"),
    *("gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches", "use_distributed_sampler"),
    *("logger", "callbacks", "default_root_dir", "enable_checkpointing", "enable_progress_bar"),
}
"""Steps, intervals, clipping and accumulation: Lightning counts them in batches, gptlab in optimizer steps."""


@dataclass(frozen=True)
class Settings:
    """The knobs at the root of train.yaml. Steps are optimizer steps, batches are sequences."""

    seed: int
    context_length: int
    batch_size: int
    micro_batch_size: int | None
    max_steps: int
    validate_every: int
    save_every: int
    grad_clip: float | None
    run_dir: str | None
    resume: str | None

    def __post_init__(self) -> None:
        for name in (
            "context_length",
            "batch_size",
            "micro_batch_size",
            "max_steps",
            "validate_every",
            "save_every",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must be 0 or more")
        if self.grad_clip is not None and not self.grad_clip > 0:
            raise ValueError(f"grad_clip={self.grad_clip} must be more than 0; null clips nothing")


@dataclass(frozen=True)
class DataSettings:
    """The knobs of the data group that every source shares: how its text becomes windows."""

    stride: int | None
    val_fraction: float
    num_workers: int
    cache_dir: str | None

    def __post_init__(self) -> None:
        if self.stride is not None and self.stride < 1:
            raise ValueError(f"stride={self.stride} must be at least 1; null is the context length")
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction={self.val_fraction} must lie between 0 and 1")
        if self.num_workers < 0:
            raise ValueError(f"num_workers={self.num_workers} must be 0 or more")


@dataclass(frozen=True)
class GenerationSettings:
    """The settings of generate.yaml."""

    prompt: str | list[str]
    checkpoint: str | None
    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    greedy: bool
    seed: int
    num_samples: int
    stop: str | list[str] | None
    accelerator: str

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must be 0 or more")
        make_sampler(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, generator=None)

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


def resolve(cfg: DictConfig) -> Config:
    """Plain data with every interpolation filled in. Raises UserError on what is missing or refers to nothing."""
    try:
        return typing.cast(Config, OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    except MissingMandatoryValue as error:
        key = error.full_key
        raise UserError(f"{key} is missing: set it with {key}=<value>") from None
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from None


def settings(config: Config) -> Settings:
    """The root scalars, checked."""
    names = {field.name for field in fields(Settings)}
    return _call(Settings, {key: value for key, value in config.items() if key in names}, key="")


def generation_settings(config: Config) -> GenerationSettings:
    """The settings of a generation, checked."""
    return _call(GenerationSettings, config, key="")


def data_settings(config: Config) -> DataSettings:
    """The window knobs of the data group, checked."""
    names = [field.name for field in fields(DataSettings)]
    return _call(DataSettings, {key: config["data"][key] for key in names if key in config["data"]}, key="data")


def source(config: Config) -> Any:
    """Where the text comes from: all of the data node that is no window knob."""
    shared = {field.name for field in fields(DataSettings)}
    return construct({key: value for key, value in config["data"].items() if key not in shared}, key="data")


def tokenizer_class(config: Config) -> tuple[type[Tokenizer], Config]:
    """The tokenizer's class, and the settings of its `train`."""
    node = config["tokenizer"]
    cls = _locate(node, "tokenizer")
    recipe = {key: value for key, value in node.items() if not key.startswith("_")}
    _check_arguments(cls.train, {"documents": [], **recipe}, key="tokenizer")
    return cls, recipe


def model(config: Config, vocab_size: int) -> GPT:
    """The model for a vocabulary of this size, with fresh weights from torch's generator."""
    return construct(config["model"], key="model", vocab_size=vocab_size)


def objective(config: Config) -> Any:
    return construct(config["objective"], key="objective")


def optimizer(config: Config) -> Callable[[torch.nn.Module], torch.optim.Optimizer]:
    """A factory: model -> optimizer."""
    return construct(config["optimizer"], key="optimizer")


def schedule(config: Config) -> Callable[[int], float]:
    """The factor on the learning rate at a step."""
    return construct(config["schedule"], key="schedule")


def keyed(config: Config, group: str) -> list[Any]:
    """The loggers or the callbacks: a group of named nodes, of which a user switches one off with null."""
    nodes = config[group] or {}
    for name, node in nodes.items():
        if node is not None and "_target_" not in node:
            raise UserError(f"{group}.{name} has no _target_: name the class, or set {group}.{name}=null")
    return [construct(node, key=f"{group}.{name}") for name, node in nodes.items() if node is not None]


def trainer(config: Config, **ours: Any) -> Any:
    """Lightning's Trainer; what gptlab decides itself is passed in."""
    try:
        return construct({**config["trainer"], **ours}, key="trainer")
    except (TypeError, RuntimeError) as error:  # Lightning's MisconfigurationException among them
        raise UserError(f"trainer: {' '.join(str(error).split())}") from None


def check(config: Config) -> None:
    """Everything that can be known before data is read or Lightning imported.

    The tokenizer is trained on nothing, and the model is built without memory for a stand-in vocabulary.

    Raises:
        UserError: naming the key, what it got, and what it wants.
    """
    settings(config)
    data_settings(config)
    cls, recipe = tokenizer_class(config)
    _call(cls.train, {"documents": [], **recipe}, key="tokenizer")
    with torch.device("meta"):
        meta_model = model(config, STAND_IN_VOCABULARY)
        optimizer(config)(meta_model)
    schedule(config)(0)
    objective(config)
    for key in TRAINER_IS_OURS & config["trainer"].keys():
        raise UserError(f"trainer.{key} is gptlab's own affair: see the settings at the root of train.yaml")


def construct(node: Any, *, key: str, **facts: Any) -> Any:
    """What a node's `_target_` returns; a node without one is itself.

    Args:
        node: plain data.
        key: its place in the configuration, for messages.
        facts: further arguments that are known at run time only.

    Raises:
        UserError: unknown target, key or type, or a value that the target refuses.
    """
    if isinstance(node, list):
        return [construct(item, key=f"{key}[{index}]") for index, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    arguments = {
        name: construct(value, key=f"{key}.{name}") for name, value in node.items() if not name.startswith("_")
    }
    if "_target_" not in node:
        return arguments
    target = _locate(node, key)
    arguments.update(facts)
    if node.get("_partial_", False):
        _check_arguments(target, arguments, key, partial=True)
        return _explained(functools.partial(target, **arguments), key)
    return _call(target, arguments, key)


def nearest(name: str, names: Iterable[str]) -> str:
    """`, did you mean x?` where some name is near."""
    match = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {match[0]}?" if match else ""


def _locate(node: Any, key: str) -> Any:
    if not isinstance(node, dict) or "_target_" not in node:
        raise UserError(f"{key} is no node with a _target_ (it is {node!r})")
    try:
        return get_object(node["_target_"])
    except Exception as error:
        raise UserError(f"{key}._target_={node['_target_']}: {str(error).splitlines()[0]}") from None


def _call(target: Callable[..., Any], arguments: dict[str, Any], key: str) -> Any:
    _check_arguments(target, arguments, key)
    return _explained(target, key)(**arguments)


def _explained(target: Callable[..., Any], key: str) -> Callable[..., Any]:
    """The same callable; a ValueError of its own checks becomes a UserError that names the group."""

    @functools.wraps(target, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return target(*args, **kwargs)
        except ValueError as error:
            separator = "." if _names_a_setting(error) else ": "
            raise UserError(f"{key}{separator if key else ''}{' '.join(str(error).split())}") from None

    return call


def _names_a_setting(error: ValueError) -> bool:
    """Whether a message begins with `name=value`, so that a key in front of it reads as an override."""
    name, equals, _ = str(error).partition("=")
    return bool(equals) and name.isidentifier()


def _check_arguments(target: Callable[..., Any], arguments: dict[str, Any], key: str, *, partial: bool = False) -> None:
    """Bind names and types to the signature, with messages for people."""
    parameters = inspect.signature(target).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    place = f"{key}." if key else ""
    for name in arguments:
        if name not in parameters:
            raise UserError(f"{place}{name} is not a setting of {_name(target)}{nearest(name, parameters)}")
    if not partial:
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and name not in arguments:
                raise UserError(f"{place}{name} is missing: {_name(target)} needs it")
    if not (target.__module__ or "").startswith("gptlab."):
        return  # a library checks its own arguments
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    for name, value in arguments.items():
        if name in hints and not _fits(value, hints[name]):
            shown = "null" if value is None else value
            raise UserError(f"{place}{name}={shown} must be {_describe(hints[name])}")


def _name(target: Any) -> str:
    return getattr(target, "__qualname__", str(target))


SCALARS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    types.NoneType: "null",
}


def _alternatives(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a scalar type, or of a sequence of them; other hints are not judged."""

    def fits_one(hint: Any) -> bool:
        if hint is float:
            return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
        if hint is int:
            return isinstance(value, int) and not isinstance(value, bool)
        if hint in SCALARS:
            return isinstance(value, hint)
        if typing.get_origin(hint) in (list, tuple):
            items = [item for item in typing.get_args(hint) if item is not ...]
            return (
                isinstance(value, list | tuple)
                and (typing.get_origin(hint) is list or ... in typing.get_args(hint) or len(value) == len(items))
                and all(any(_fits(element, item) for item in items) for element in value)
            )
        return True

    return any(fits_one(alternative) for alternative in _alternatives(hint))


def _describe(hint: Any) -> str:
    def describe_one(hint: Any) -> str:
        if typing.get_origin(hint) in (list, tuple):
            items = typing.get_args(hint)
            inner = " and ".join(_describe(item) for item in items if item is not ...)
            return f"a list of {inner}"
        return SCALARS.get(hint, str(hint))

    return " or ".join(describe_one(alternative) for alternative in _alternatives(hint))
