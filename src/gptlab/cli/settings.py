"""The scalars at the root of train.yaml, and everything about a configuration that is checked before data is read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gptlab import build
from gptlab.arguments import NonNegative, Positive
from gptlab.errors import UserError
from gptlab.model.base import Tune, check_model
from gptlab.model.blocks import checkpoint_activations
from gptlab.training.budget import BUDGETS

STAND_IN_VOCABULARY = 1000
NODES = ("data", "tokenizer", "model", "objective", "optimizer", "schedule", "trainer")
NEWEST, AUTO = "last", "auto"
"""Values of `resume=` that are no paths."""

TRAINER_IS_OURS = {
    *("max_steps", "min_steps", "max_epochs", "min_epochs", "max_time", "limit_train_batches", "overfit_batches"),
    *("val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps", "log_every_n_steps"),
    *("gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches", "use_distributed_sampler"),
    *("logger", "callbacks", "plugins", "default_root_dir", "enable_checkpointing", "enable_progress_bar"),
    *("enable_model_summary", "fast_dev_run", "barebones"),
}
"""Steps, intervals, clipping and accumulation: Lightning counts them in batches, gptlab in optimizer steps."""


@dataclass(frozen=True)
class TrainSettings:
    """The scalars at the root of train.yaml. Steps are optimizer steps, batches are sequences."""

    seed: NonNegative
    context_length: Positive
    batch_size: Positive
    micro_batch_size: Positive | None
    max_steps: Positive
    max_minutes: float | None
    max_tokens: float | None
    max_flops: float | None
    validate_every: Positive
    save_every: Positive
    log_every: Positive
    grad_clip: float | None
    on_nonfinite: Literal["stop", "skip"]
    check_device: bool
    compile: bool
    activation_checkpointing: bool
    run_dir: str | None
    resume: str | None
    resume_sweep: str | None
    init_from: str | None
    tune: Tune
    trust: str | list[str] | None

    def __post_init__(self) -> None:
        for name in ("run_dir", "resume", "resume_sweep", "init_from"):
            if getattr(self, name) == "":
                raise ValueError(f"{name}= is empty: write null, or a name")
        for name in BUDGETS:
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name}={value} must be more than 0")
        if self.run_dir in (NEWEST, AUTO):
            raise ValueError(f"run_dir={self.run_dir} has a meaning for resume=: choose another name")
        if self.grad_clip is not None and not self.grad_clip > 0:
            raise ValueError(f"grad_clip={self.grad_clip} must be more than 0; null clips nothing")


def settings(config: build.Config) -> TrainSettings:
    """The root scalars, checked."""
    scalars = config.keys() - {*NODES, "adapter", *build.LATE_GROUPS}
    return build.settings_of(TrainSettings, {key: config[key] for key in sorted(scalars)})


def check(config: build.Config, *, decided: bool = False) -> TrainSettings:
    """Check everything that can be known before data is read or Lightning imported.

    The tokenizer is trained on nothing, unless it may come with weights. The model is built without memory, for a
    stand-in vocabulary; what its adapter needs is known if the weights of `init_from` have decided its sizes.

    Raises:
        UserError: naming the key, what it got, and what it wants.
    """
    for group in NODES:
        if not (isinstance(config.get(group), dict) and "_target_" in config[group]):
            raise UserError(f"{group} is missing, or has no _target_: choose one with {group}=<choice>")
    for key in TRAINER_IS_OURS & config["trainer"].keys():
        raise UserError(f"trainer.{key} is decided by gptlab: see the settings at the root of train.yaml")
    checked = settings(config)
    if checked.init_from is None:
        build.tokenizer_factory(config)
    model = build.meta_model(config, STAND_IN_VOCABULARY)
    build.settings_of(check_model, {"model": model}, "model")
    if model.context_length < checked.context_length:
        n_positions, wanted = model.context_length, checked.context_length
        raise UserError(f"model.context_length={n_positions} is less than context_length={wanted}")
    build.settings_of(model.tune, {"what": checked.tune})
    if checked.activation_checkpointing:
        build.settings_of(checkpoint_activations, {"model": model})
    if "adapter" in config:
        adapter = build.part(config, "adapter")
        if checked.init_from is None:
            raise UserError("an adapter needs weights to stand beside: name them with init_from=<run, directory, id>")
        if decided:
            build.settings_of(adapter.places, {"model": model}, "adapter")
    build.optimizer(config)(model)
    build.part(config, "schedule")(0)
    for name, value in config["schedule"].items() if checked.max_minutes is not None else ():
        if name.endswith("_steps") and name != "total_steps" and isinstance(value, int) and value > 0:
            raise UserError(
                f"schedule.{name}={value}: max_minutes does not know the steps; write a share, such as 0.05"
            )
    units = {group: getattr(build.part(config, group), "unit", "token") for group in ("objective", "data")}
    if units["objective"] != units["data"] or model.generates != (units["data"] != "text"):
        kind = "continues texts" if model.generates else "classifies texts"
        kinds = f"objective is for {units['objective']}s, data has {units['data']}s and model {kind}"
        advice = "to classify, experiment=classify; to learn from preferences, objective=dpo data=preferences"
        raise UserError(f"{kinds}, which does not fit together ({advice})")
    return checked


def absolute_paths(node: build.Config) -> build.Config:
    """The data node with absolute paths, so that a run resumes from anywhere."""
    paths = {name: node[name] for name in ("path", "cache_dir") if node.get(name) is not None}
    return {**node, **{name: str(Path(path).expanduser().absolute()) for name, path in paths.items()}}
