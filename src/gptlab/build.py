"""From configuration to objects: the one place that instantiates.

A configuration is plain data here (dicts, lists, scalars): Hydra has composed and resolved it. A node with a `_target_`
becomes what the target returns for the node's other keys; `_partial_: true` leaves the call to whoever has the rest.
Data and training are reached through their `_target_` alone, so that building a model imports no Lightning.
"""

import functools
import re
import typing
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, TypeVar

import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from torch.overrides import TorchFunctionMode

from gptlab.arguments import check_arguments, nearest
from gptlab.errors import UserError
from gptlab.model import GPT
from gptlab.settings import (
    CompareSettings,
    DataSettings,
    DoctorSettings,
    EvaluationSettings,
    ExportSettings,
    GenerationSettings,
    InspectionSettings,
    Settings,
    SweepSettings,
)
from gptlab.tokenizer import Tokenizer

Config = dict[str, Any]
S = TypeVar("S")

STAND_IN_VOCABULARY = 1000
GROUPS = ("data", "tokenizer", "model", "objective", "optimizer", "schedule", "trainer", "logger", "callbacks")
LATE_GROUPS = {"logger", "callbacks"}

TRAINER_IS_OURS = {
    *("max_steps", "min_steps", "max_epochs", "min_epochs", "max_time", "limit_train_batches", "overfit_batches"),
    *("val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps", "log_every_n_steps"),
    *("gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches", "use_distributed_sampler"),
    *("logger", "callbacks", "plugins", "default_root_dir", "enable_checkpointing", "enable_progress_bar"),
    *("enable_model_summary", "fast_dev_run", "barebones"),
}
"""Steps, intervals, clipping and accumulation: Lightning counts them in batches, gptlab in optimizer steps."""


def resolve(cfg: DictConfig) -> Config:
    """Plain data with the interpolations filled in, but for loggers and callbacks.

    Those name the run directory, which is not known yet, and changes where a run is moved: `keyed` fills them in.

    Raises:
        UserError: on what is missing or refers to nothing.
    """
    try:
        config = typing.cast(Config, OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
        for group in LATE_GROUPS & config.keys():
            config[group] = OmegaConf.to_container(cfg[group], throw_on_missing=True) if cfg[group] else {}
        return config
    except MissingMandatoryValue as error:
        key = error.full_key
        raise UserError(f"{key} is missing: set it with {key}=<value>") from None
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from None


def settings_of(schema: type[S], config: Config, key: str = "") -> S:
    """A dataclass of settings, filled from a node of the configuration.

    Args:
        schema: a dataclass; its annotations are the types, its `__post_init__` checks the ranges (ValueError).
        config: the node.
        key: where the node stands, for messages.

    Raises:
        UserError: on a name that is unknown or missing, on a value of another type or outside its range.
    """
    return _call(schema, config, key=key)


def settings(config: Config) -> Settings:
    """The root scalars, checked."""
    names = {field.name for field in fields(Settings)}
    return _call(Settings, {key: value for key, value in config.items() if key in names}, key="")


def generation_settings(config: Config) -> GenerationSettings:
    """The settings of a generation, checked."""
    return _call(GenerationSettings, config, key="")


def export_settings(config: Config) -> ExportSettings:
    """The settings of an export, checked."""
    return _call(ExportSettings, config, key="")


def evaluation_settings(config: Config) -> EvaluationSettings:
    """The settings of an evaluation, checked; its text is the data group's affair."""
    return _call(EvaluationSettings, {key: value for key, value in config.items() if key != "data"}, key="")


def inspection_settings(config: Config) -> InspectionSettings:
    """The settings of an inspection, checked."""
    return _call(InspectionSettings, config, key="")


def compare_settings(config: Config) -> CompareSettings:
    """The settings of a comparison, checked."""
    return _call(CompareSettings, config, key="")


def doctor_settings(config: Config) -> DoctorSettings:
    """The settings of a look at the machine, checked."""
    return _call(DoctorSettings, config, key="")


def sweep_settings(config: Config) -> SweepSettings:
    """The settings of a sweep, checked."""
    return _call(SweepSettings, {key: value for key, value in config.items() if key != "_target_"}, key="hydra.sweeper")


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
    check_arguments(cls.train, {"documents": [], **recipe}, key="tokenizer")
    return cls, recipe


def model(config: Config, vocab_size: int) -> GPT:
    """The model for a vocabulary of this size, with fresh weights from torch's generator."""
    return construct(config["model"], key="model", vocab_size=vocab_size)


def meta_model(config: Config, vocab_size: int) -> GPT:
    """The model without memory for its weights, and without the time for first ones: for checks, or to be filled."""
    with _WithoutFirstWeights(), torch.device("meta"):
        return model(config, vocab_size)


class _WithoutFirstWeights(TorchFunctionMode):
    """Turns torch.nn.init off: on the meta device, normal_ alone would import sympy, a second for nothing."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return function(*args, **(kwargs or {}))


def objective(config: Config) -> Any:
    return construct(config["objective"], key="objective")


def optimizer(config: Config) -> Callable[[torch.nn.Module], torch.optim.Optimizer]:
    """A factory: model -> optimizer."""
    return construct(config["optimizer"], key="optimizer")


def schedule(config: Config) -> Callable[[int], float]:
    """The factor on the learning rate at a step."""
    return construct(config["schedule"], key="schedule")


def leaves(config: Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys, and the values that are no nodes."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def literal(value: Any) -> Any:
    r"""Text that OmegaConf leaves as it is: `${` written as `\${`, and backslashes in front of it in pairs."""
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", value) if isinstance(value, str) else value


def plain_text(text: str) -> str:
    r"""What `literal` was given: `${` for `\${`, and half of the backslashes in front of that."""
    return re.sub(r"(\\*)\\\$\{", lambda match: match[1][: len(match[1]) // 2] + "${", text)


def keyed(config: Config, group: str) -> list[Any]:
    """The loggers or the callbacks: a group of named nodes, of which a user switches one off with null."""
    root = {key: literal(value) for key, value in config.items() if not isinstance(value, dict | list)}
    filled = OmegaConf.create({**root, group: config.get(group) or {}})
    try:
        nodes = typing.cast(Config, OmegaConf.to_container(filled, resolve=True))[group]
    except OmegaConfBaseException as error:
        raise UserError(f"{group}: {str(error).splitlines()[0]}") from None
    for name, node in nodes.items():
        if node is not None and not (isinstance(node, dict) and "_target_" in node):
            raise UserError(f"{group}.{name} has no _target_: name the class, or set {group}.{name}=null")
    return [construct(node, key=f"{group}.{name}") for name, node in nodes.items() if node is not None]


def trainer(config: Config, **ours: Any) -> Any:
    """Lightning's Trainer; what gptlab decides itself is passed in."""
    try:
        return construct({**config["trainer"], **ours}, key="trainer")
    except UserError:
        raise
    except Exception as error:  # Lightning's MisconfigurationException is no more than that
        raise UserError(f"trainer: {' '.join(str(error).split())}") from None


def check(config: Config, *, trains_tokenizer: bool = True) -> None:
    """Everything that can be known before data is read or Lightning imported.

    The tokenizer is trained on nothing, and the model is built without memory for a stand-in vocabulary.

    Args:
        config: the whole configuration.
        trains_tokenizer: whether the run makes its tokenizer, rather than takes it over with weights.

    Raises:
        UserError: naming the key, what it got, and what it wants.
    """
    for group in GROUPS:
        if config.get(group) is None and group not in LATE_GROUPS:
            raise UserError(f"{group} is missing: a run needs one ({group}=<choice>)")
        if group not in LATE_GROUPS and not (isinstance(config[group], dict) and "_target_" in config[group]):
            raise UserError(f"{group} has no _target_: choose one ({group}=<choice>)")
    known = {*GROUPS, *(field.name for field in fields(Settings))}
    for key in config:
        if key not in known:
            raise UserError(f"{key} is not a setting{nearest(key, known)}")
    settings(config)
    if data_settings(config).val_fraction == 1:
        raise UserError("data.val_fraction=1 leaves nothing to train on: less than 1 does")
    if trains_tokenizer:
        cls, recipe = tokenizer_class(config)
        _call(cls.train, {"documents": [], **recipe}, key="tokenizer")
    checked_model = meta_model(config, STAND_IN_VOCABULARY)
    wanted = config["context_length"]
    if checked_model.context_length < wanted:
        raise UserError(f"model.context_length={checked_model.context_length} is less than context_length={wanted}")
    optimizer(config)(checked_model)
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
        check_arguments(target, arguments, key, partial=True)
        return _explained(functools.partial(target, **arguments), key)
    return _call(target, arguments, key)


def _locate(node: Any, key: str) -> Any:
    if not isinstance(node, dict) or "_target_" not in node:
        raise UserError(f"{key} is no node with a _target_ (it is {node!r})")
    try:
        return get_object(node["_target_"])
    except Exception as error:
        raise UserError(f"{key}._target_={node['_target_']}: {' '.join(str(error).split())}") from None


def _call(target: Callable[..., Any], arguments: dict[str, Any], key: str) -> Any:
    check_arguments(target, arguments, key)
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
        except TypeError as error:
            missing = re.search(r"missing \d+ required .*: '(\w+)'", str(error))
            if missing is None:
                raise
            raise UserError(f"{key}.{missing[1]} is missing: it was taken away") from None

    return call


def _names_a_setting(error: ValueError) -> bool:
    """Whether a message begins with `name=value`, so that a key in front of it reads as an override."""
    name, equals, _ = str(error).partition("=")
    return bool(equals) and name.isidentifier()
