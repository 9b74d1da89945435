"""The files of a run directory, and what a later session reads of them."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gptlab.files import write_yaml

CONFIG, SUMMARY, METRICS, TRAIN_LOG, CURVES = "config.yaml", "summary.json", "metrics.csv", "train.log", "curves.png"
EVENTS = "events.out.tfevents.*"
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Reads plain data only. libyaml's is used if it is there: the other one needs a second for two hundred runs."""


@dataclass(frozen=True)
class ResumeState:
    """What earlier sessions of a run have left."""

    run_dir: Path | None = None  # None for a new run
    checkpoint: Path | None = None  # the newest one that can be read; None if the run has not saved yet
    steps: int = 0  # optimizer steps done in it
    stored: dict[str, Any] = field(default_factory=dict)  # what gptlab stored in it: configuration, tokenizer ...
    log_sizes: dict[str, int] = field(default_factory=dict)  # of TensorBoard's files when it was saved, in bytes
    complaints: tuple[str, ...] = ()  # about newer checkpoints that cannot be read

    @property
    def validation_pending(self) -> bool:
        return self.stored.get("validation_pending", False)


def write_config(run_dir: Path, config: dict[str, Any]) -> None:
    write_yaml(run_dir / CONFIG, config)


def read_config(run_dir: Path) -> dict[str, Any] | None:
    """The run's configuration; None if config.yaml cannot be read, or is no run's."""
    try:
        config = LOADER((run_dir / CONFIG).read_text(encoding="utf-8")).get_single_data()
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return config if isinstance(config, dict) and {"model", "optimizer"} <= config.keys() else None


def read_summary(run_dir: Path) -> dict[str, Any]:
    """The content of summary.json; empty if it cannot be read."""
    try:
        content = json.loads((run_dir / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def log_sizes(run_dir: Path) -> dict[str, int]:
    """Sizes of TensorBoard's files. The lines of metrics.csv say their step, and train.log is kept whole."""
    return {path.name: path.stat().st_size for path in run_dir.glob(EVENTS)}


def truncate_logs(run_dir: Path, sizes: dict[str, int]) -> None:
    """Cut TensorBoard's files to these sizes, and delete later ones."""
    for path in run_dir.glob(EVENTS):
        if path.name not in sizes:
            path.unlink()
        elif path.stat().st_size > sizes[path.name]:
            os.truncate(path, sizes[path.name])
