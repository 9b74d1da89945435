"""The scalars that a person sets, with their types and limits. The yaml files own the values."""

from dataclasses import dataclass
from typing import Any

import torch

from gptlab.arguments import nearest
from gptlab.generation.preparation import PRECISIONS
from gptlab.generation.sampling import Sampler, make_sampler


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
    on_nonfinite: str
    check_device: bool
    run_dir: str | None
    resume: str | None
    resume_sweep: str | None
    init_from: str | None

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
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} must lie in [0, 2^63)")
        if "" in (self.run_dir, self.resume, self.resume_sweep):
            raise ValueError("run_dir, resume and resume_sweep name a directory: null, or a path that is not empty")
        if self.run_dir == "last":
            raise ValueError("run_dir=last cannot be told from resume=last, the newest run: choose another name")
        if self.init_from == "":
            raise ValueError("init_from= is empty: null, a run, a Hugging Face directory, or a Hub id such as gpt2")
        if self.on_nonfinite not in ("stop", "skip"):
            raise ValueError(f"on_nonfinite={self.on_nonfinite} must be stop or skip")
        if self.grad_clip is not None and not self.grad_clip > 0:
            raise ValueError(f"grad_clip={self.grad_clip} must be more than 0; null clips nothing")


@dataclass(frozen=True)
class SweepSettings:
    """The knobs of a sweep, hydra.sweeper; what decides its trials is checked by sweep.definition."""

    space: dict[str, Any] | None
    sampler: str
    pruner: str | None
    n_trials: int | None
    n_jobs: int
    metric: str
    direction: str
    seed: int
    max_failed: float

    def __post_init__(self) -> None:
        for name in ("n_trials", "n_jobs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if self.n_trials is None and self.sampler != "grid":
            raise ValueError(f"n_trials=null: sampler={self.sampler} never comes to an end by itself, say how many")
        if not 0 <= self.max_failed <= 1:
            raise ValueError(f"max_failed={self.max_failed} must be a share from 0 to 1")


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
        if not 0 < self.val_fraction <= 1:
            raise ValueError(f"val_fraction={self.val_fraction} must be more than 0 and at most 1")
        if self.cache_dir == "":
            raise ValueError("cache_dir= is empty: null is the user's cache directory")
        if self.num_workers < 0:
            raise ValueError(f"num_workers={self.num_workers} must be 0 or more")


def check_precision(precision: int | str) -> None:
    """Whether weights can be kept in it. Raises ValueError."""
    if str(precision) not in PRECISIONS:
        raise ValueError(f"precision={precision} must be {' or '.join(PRECISIONS)}")


@dataclass(frozen=True)
class GenerationSettings:
    """The settings of generate.yaml."""

    prompt: str | list[str]
    interactive: bool
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
    precision: int | str
    compile: bool

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} must lie in [0, 2^63)")
        make_sampler(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, generator=None)
        check_precision(self.precision)
        if self.interactive and (self.num_samples > 1 or len(self.prompts) > 1):
            raise ValueError("interactive=true answers one prompt after the other: give one prompt, and num_samples=1")

    def sampler(self, generator: torch.Generator | None) -> Sampler:
        """What picks the next token; `generator` is its source of randomness."""
        return make_sampler(
            temperature=0.0 if self.greedy else self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            generator=generator,
        )

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


@dataclass(frozen=True)
class ExportSettings:
    """The settings of export.yaml."""

    checkpoint: str | None
    to: str
    push_to: str | None

    def __post_init__(self) -> None:
        if not self.to:
            raise ValueError("to= is empty: it names the directory that is made")


@dataclass(frozen=True)
class EvaluationSettings:
    """The settings of evaluate.yaml."""

    checkpoint: str | None
    stride: int | None
    batch_size: int
    precision: int | str
    accelerator: str
    task: str | list[str] | None
    num_fewshot: int | None
    limit: int | float | None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1")
        if self.stride is not None and self.stride < 1:
            raise ValueError(f"stride={self.stride} must be at least 1; null is the context length")
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise ValueError(f"num_fewshot={self.num_fewshot} must be 0 or more; null is what the task says")
        if self.limit is not None and (self.limit <= 0 or (self.limit > 1 and self.limit != int(self.limit))):
            raise ValueError(f"limit={self.limit} must be a whole number, or a share between 0 and 1; null is all")
        for name, value in {"num_fewshot": self.num_fewshot, "limit": self.limit}.items():
            if value is not None and not self.tasks:
                raise ValueError(f"{name}={value} is for tasks: name one with task=<name>")
        if self.tasks and self.stride is not None:
            raise ValueError(f"stride={self.stride} is for a text of one's own: leave it out with task=")
        if any(not task for task in self.tasks):
            raise ValueError("task= is empty: the name of a harness task, or the path of its .yaml file")
        check_precision(self.precision)

    @property
    def tasks(self) -> list[str]:
        return [self.task] if isinstance(self.task, str) else self.task or []


@dataclass(frozen=True)
class InspectionSettings:
    """The settings of inspect.yaml."""

    prompt: str
    checkpoint: str | None
    to: str | None
    top_k: int
    accelerator: str

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("prompt= is empty: there must be at least one token to look at (prompt=<text>)")
        if self.top_k < 1:
            raise ValueError(f"top_k={self.top_k} must be at least 1")
        if self.to == "":
            raise ValueError("to= is empty: it names the directory that is made")


@dataclass(frozen=True)
class DoctorSettings:
    """The settings of doctor.yaml."""

    device: str | None


OVER = ("steps", "tokens", "seconds")
PICTURES = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class CompareSettings:
    """The settings of compare.yaml."""

    runs: str | list[str]
    over: str
    metric: str
    to: str

    def __post_init__(self) -> None:
        if not self.directories or "" in self.directories:
            raise ValueError("runs= is empty: name run directories, or such that hold some (gptlab compare outputs)")
        if self.over not in OVER:
            raise ValueError(f"over={self.over} must be {' or '.join(OVER)}{nearest(self.over, OVER)}")
        if not self.to.lower().endswith(PICTURES):
            raise ValueError(f"to={self.to} must end in {' or '.join(PICTURES)}: it names the picture")

    @property
    def directories(self) -> list[str]:
        return [self.runs] if isinstance(self.runs, str) else self.runs
