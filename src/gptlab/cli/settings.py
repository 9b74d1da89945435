"""The scalars at the root of train.yaml, and everything about a configuration that is checked before data is read."""

from dataclasses import dataclass, fields
from pathlib import Path

from gptlab import build
from gptlab.arguments import nearest
from gptlab.errors import UserError
from gptlab.model.base import check_model

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

    seed: int
    context_length: int
    batch_size: int
    micro_batch_size: int | None
    max_steps: int
    validate_every: int
    save_every: int
    grad_clip: float | None
    on_nonfinite: str
    check_device: bool
    run_dir: str | None
    resume: str | None
    resume_sweep: str | None
    init_from: str | None
    trust: str | list[str] | None

    def __post_init__(self) -> None:
        for name in ("context_length", "batch_size", "micro_batch_size", "max_steps", "validate_every", "save_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} must lie in [0, 2^63)")
        if "" in (self.run_dir, self.resume, self.resume_sweep):
            raise ValueError("run_dir, resume and resume_sweep name a directory: null, or a path that is not empty")
        if self.run_dir in (NEWEST, AUTO):
            raise ValueError(f"run_dir={self.run_dir} has a meaning for resume=: choose another name")
        if self.init_from == "":
            raise ValueError("init_from= is empty: null, a run, a Hugging Face directory, or a Hub id such as gpt2")
        if self.on_nonfinite not in ("stop", "skip"):
            raise ValueError(f"on_nonfinite={self.on_nonfinite} must be stop or skip")
        if self.grad_clip is not None and not self.grad_clip > 0:
            raise ValueError(f"grad_clip={self.grad_clip} must be more than 0; null clips nothing")


def settings(config: build.Config) -> TrainSettings:
    """The root scalars, checked."""
    names = {field.name for field in fields(TrainSettings)}
    return build.settings_of(TrainSettings, {key: value for key, value in config.items() if key in names})


def check(config: build.Config, *, trains_tokenizer: bool = True) -> TrainSettings:
    """Check everything that can be known before data is read or Lightning imported.

    The tokenizer is trained on nothing, unless it comes with weights (`trains_tokenizer=False`). The model is built
    without memory, for a stand-in vocabulary.

    Raises:
        UserError: naming the key, what it got, and what it wants.
    """
    for group in NODES:
        if not (isinstance(config.get(group), dict) and "_target_" in config[group]):
            raise UserError(f"{group} is missing, or has no _target_: choose one with {group}=<choice>")
    known = {*NODES, *build.LATE_GROUPS, *(field.name for field in fields(TrainSettings))}
    for key in config.keys() - known:
        raise UserError(f"{key} is not a setting{nearest(key, known)}")
    for key in TRAINER_IS_OURS & config["trainer"].keys():
        raise UserError(f"trainer.{key} is decided by gptlab: see the settings at the root of train.yaml")
    checked = settings(config)
    if trains_tokenizer:
        build.tokenizer_factory(config)
    model = build.meta_model(config, STAND_IN_VOCABULARY)
    try:
        check_model(model)
    except ValueError as error:
        raise UserError(f"model: {error}") from None
    if model.context_length < checked.context_length:
        raise UserError(
            f"model.context_length={model.context_length} is less than context_length={checked.context_length}"
        )
    build.optimizer(config)(model)
    build.schedule(config)(0)
    build.objective(config)
    build.data(config)
    return checked


def absolute_paths(node: build.Config) -> build.Config:
    """The data node with absolute paths, so that a run resumes from anywhere."""
    paths = {name: node[name] for name in ("path", "cache_dir") if node.get(name) is not None}
    return {**node, **{name: str(Path(path).expanduser().absolute()) for name, path in paths.items()}}
