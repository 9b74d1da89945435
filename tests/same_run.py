"""When two runs are the same run: what the tests of resuming, of kills and of broken disks all ask."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gptlab.training.module import TrainingModule

CLOCK = {"seconds", "tokens_per_second", "mfu"}
"""What no two runs have in common."""
PLACES = {"run_dir", "best_checkpoint", "last_checkpoint"}


def assert_same_run(run: Path, undisturbed: Path) -> None:
    """Bit for bit the same weights, optimizer, position, rows, summary and names of files."""
    assert file_names(run) == file_names(undisturbed)
    for name in ("last.ckpt", "best.ckpt"):
        one, other = (what_counts(directory / "checkpoints" / name) for directory in (run, undisturbed))
        assert differences(one, other) == [], f"{name} of {run}"
    assert rows(run) == rows(undisturbed)
    one, other = ({k: v for k, v in summary(d).items() if k not in CLOCK | PLACES} for d in (run, undisturbed))
    assert one == other


def file_names(run: Path) -> set[str]:
    """Every file of a run; of its event files only that there are some."""
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    return {re.sub(r"^events\.out\.tfevents\..*", "events", name) for name in names}


def what_counts(checkpoint: Path) -> dict[str, Any]:
    """All of a checkpoint but where it lies, when it was, and with how many steps and workers the run was asked for."""
    content = read(checkpoint)
    ours = content["gptlab"]
    kept = {key: content.get(key) for key in ("state_dict", "optimizer_states", "loops", "global_step", "epoch")}
    metrics = {key: value for key, value in ours["metrics"].items() if key not in CLOCK}
    return {**kept, **{key: ours[key] for key in ("tokenizer", "text_fingerprint", "tokens", "recent")}, **metrics}


def read(checkpoint: Path) -> dict[str, Any]:
    return torch.load(checkpoint, weights_only=True)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return read(run / "checkpoints" / "last.ckpt")["state_dict"]


def differences(one: Any, other: Any, at: str = "") -> list[str]:
    """Where two nested values differ; nan equals nan."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [line for key in one for line in differences(one[key], other[key], f"{at}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [line for i, pair in enumerate(zip(one, other, strict=True)) for line in differences(*pair, f"{at}/{i}")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(one, other)
        return [] if same else [f"{at}: {(one.double() - other.double()).abs().max():.2g} apart"]
    return [] if one == other or (one != one and other != other) else [f"{at}: {one} is not {other}"]


def rows(run: Path) -> list[dict[str, str]]:
    """metrics.csv without what the clock says."""
    with (run / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name not in CLOCK} for row in csv.DictReader(file)]


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def curve(run: Path, tag: str) -> list[int]:
    """The steps at which TensorBoard shows a value.

    Its files are numbered by process and read by name: 10 comes before 9 if both sessions are of one second.
    """
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return sorted(event.step for event in events.Scalars(tag))


@contextmanager
def at_step(step: int, do: Callable[[], object], *, hook: str = "training_step") -> Iterator[None]:
    """`do` once, as `step` (counted from 0) begins, or, with hook="validation_step", in the validation before it."""
    done = False
    original = getattr(TrainingModule, hook)

    def hooked(self: TrainingModule, *arguments: Any) -> Any:
        nonlocal done
        if self.trainer.global_step == step and not done:
            done = True
            do()
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, hook, hooked)
        yield
    assert done, f"no {hook} at step {step}"
