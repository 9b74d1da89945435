"""The run itself: fit, watch for signals, sum up."""

import logging
import math
import platform
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch

from gptlab.files import write_json
from gptlab.signals import END_OF_PROCESS
from gptlab.training import requeue
from gptlab.training.callbacks.checkpoints import Checkpoints
from gptlab.training.callbacks.signals import StopOnSignal
from gptlab.training.checkpoint_io import WholeFileCheckpointIO
from gptlab.training.log import RunLog
from gptlab.training.loggers.tensorboard import TensorBoard
from gptlab.training.module import TrainingModule
from gptlab.training.run_files import BEST, LAST, PREVIOUS, SUMMARY, read_summary
from gptlab.training.stops import Interrupted, NonFiniteError, Pruned

log = logging.getLogger("gptlab")

WHAT_HELPS = (
    "what usually helps is a lower optimizer.lr, a longer schedule.warmup_steps or a grad_clip; "
    "on_nonfinite=skip leaves such a step out, trainer.detect_anomaly=true names the operation"
)
NOT_OF_THE_STEPS = {"run_dir", "status", "failure", "best_checkpoint", "last_checkpoint", "job", "versions"}
EXIT_STATUS = {"finished": 0, "pruned": 0, "failed": 1}  # interrupted: 128 + the signal
PACKAGES = ("gptlab", "torch", "lightning", "numpy", "tiktoken")


@dataclass(frozen=True)
class End:
    """How training ended.

    Attributes:
        status: finished, interrupted, pruned or failed.
        failure: in one line; None where there was none.
        is_shared: whether all ranks have ended like this, at the same step.
        going_on: what `resume=` needs besides, for the run to get further.
    """

    status: str
    failure: str | None = None
    is_shared: bool = True
    going_on: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What is left of a run when it has ended.

    Attributes:
        end: how it ended.
        summary: the content of summary.json.
        exit_status: of the process.
        saved_step: of last.ckpt; None where there is none.
        queue_again: has the cluster start this job again; None where it shall not.
    """

    end: End
    summary: dict[str, Any]
    exit_status: int
    saved_step: int | None
    queue_again: Callable[[], None] | None


def run(
    *,
    trainer: L.Trainer,
    module: TrainingModule,
    data: L.LightningDataModule,
    run_dir: Path,
    flat_config: dict[str, Any],
    command: list[str],
    run_log: RunLog,
    resume_from: Path | None,
) -> Outcome:
    """Train to the last step, or to a signal, or to an exception; whichever it is, summary.json tells.

    Ctrl-C, SIGTERM and a terminal that is closed let the step that is under way finish, and save it. A second Ctrl-C
    leaves at once. `command` is by what a cluster's job knows its run again.
    """
    before = _known_before(summarise(trainer, module, run_dir, command), run_dir)
    if trainer.is_global_zero:
        write_json(run_dir / SUMMARY, {**before, "status": "running"})
    boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoard)]
    if resume_from is None:
        for board in boards:
            board.log_config(flat_config)
    signals = _take_signals(trainer)
    with signals.answer():
        end = _train(trainer, module, data, run_dir, run_log, resume_from)
        has_begun = signals.has_begun or end.status == "finished"
        summary = summarise(trainer, module, run_dir, command) if has_begun else before
        summary = {**summary, "status": end.status, "failure": end.failure}
        if trainer.is_global_zero:
            try:
                write_json(run_dir / SUMMARY, summary)
            except OSError as error:
                end = replace(end, status="failed", failure=end.failure or f"{error.filename}: {error.strerror}")
        for board in boards:
            board.log_end(end.status, best_val_loss=summary["best_val_loss"], step=summary["steps"])
    number = signals.received or signal.SIGINT
    handler = signals.before.get(number)
    is_queued_again = end.status == "interrupted" and number in requeue.signals()
    return Outcome(
        end=end,
        summary=summary,
        exit_status=128 + number if end.status == "interrupted" else EXIT_STATUS[end.status],
        saved_step=_saved_step(run_dir),
        queue_again=partial(requeue.requeue, number, handler if callable(handler) else None)
        if is_queued_again
        else None,
    )


def _take_signals(trainer: L.Trainer) -> StopOnSignal:
    """Ours instead of Lightning's, which would end the process with status 0; checkpoints before what may fail."""
    signals = StopOnSignal(signal.SIGINT, *END_OF_PROCESS, *requeue.signals())
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks.sort(key=lambda callback: not isinstance(callback, Checkpoints))
    callbacks.insert(0, signals)
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return signals


def _train(
    trainer: L.Trainer,
    module: TrainingModule,
    data: L.LightningDataModule,
    run_dir: Path,
    run_log: RunLog,
    resume_from: Path | None,
) -> End:
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume_from, weights_only=True)
        end = End("finished")
    except Pruned:
        end = End("pruned")
    except (Interrupted, KeyboardInterrupt, SystemExit):  # Lightning turns the second Ctrl-C into an exit
        end = End("interrupted")
    except NonFiniteError as error:
        failure = f"{error}; {_checkpoints(run_dir)}; {WHAT_HELPS}"
        return End("failed", failure, going_on={"on_nonfinite": "skip"})
    except Exception as error:
        _tell_of_accident(trainer, run_log)
        return End("failed", f"{type(error).__name__}: {error}".splitlines()[0], is_shared=False)
    checkpoint_io = trainer.strategy.checkpoint_io
    assert isinstance(checkpoint_io, WholeFileCheckpointIO)
    unsaved = checkpoint_io.failures.get(LAST)  # the newest state of the run is not on the disk
    if unsaved is not None:
        return End("failed" if end.status == "finished" else end.status, unsaved)
    return end


def _known_before(summary: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """A session's summary before its first step: with the numbers that the one before it has left."""
    saved_step = _saved_step(run_dir)
    earlier = read_summary(run_dir) if saved_step is not None else {}
    known = {name: earlier[name] for name in summary.keys() - NOT_OF_THE_STEPS if name in earlier}
    return {**summary, **known, "steps": max(known.get("steps", 0), saved_step or 0)}


def _saved_step(run_dir: Path, name: str = LAST) -> int | None:
    """Of a checkpoint; None where there is none that can be read."""
    try:
        return torch.load(run_dir / "checkpoints" / name, weights_only=True, mmap=True)["global_step"]
    except Exception:  # torch reports a broken file in many ways
        return None


def _checkpoints(run_dir: Path) -> str:
    """In words, for a run that went wrong behind them."""
    steps = {name: _saved_step(run_dir, name) for name in (LAST, PREVIOUS)}
    are = [f"checkpoints/{name} is of step {step}" for name, step in steps.items() if step is not None]
    return ", ".join(are) or "there was no checkpoint yet"


def _tell_of_accident(trainer: L.Trainer, run_log: RunLog) -> None:
    """The traceback to train.log, where a person looks for it; other ranks have none."""
    if trainer.is_global_zero:
        run_log.file_only(traceback.format_exc())
        launcher = trainer.strategy.launcher
        if launcher is not None:  # or the ranks that this one has launched would wait for it, with their memory
            launcher.kill(signal.SIGKILL)
    else:
        print(f"rank {trainer.global_rank}: {traceback.format_exc()}", file=sys.stderr)


def summarise(trainer: L.Trainer, module: TrainingModule, run_dir: Path, command: list[str]) -> dict[str, Any]:
    """The content of summary.json but for the status; what is not known yet is null."""
    checkpoints = next((c for c in trainer.callbacks if isinstance(c, Checkpoints)), None)  # type: ignore[attr-defined]
    metrics = module.metrics
    best, last = run_dir / "checkpoints" / BEST, run_dir / "checkpoints" / LAST
    has_best = checkpoints is not None and math.isfinite(checkpoints.best_val_loss)
    return {
        "run_dir": str(run_dir),
        "status": None,
        "failure": None,
        "steps": trainer.global_step,
        "tokens": module.n_tokens,
        "seconds": round(module.clock.seconds, 3),
        "tokens_per_second": round(module.clock.tokens_per_second, 1),
        "parameters": sum(parameter.numel() for parameter in module.model.parameters()),
        "train_loss": _finite(module.recent_train_loss),
        "val_loss": _finite(metrics.get("val/loss")),
        "val_perplexity": _finite(metrics.get("val/perplexity")),
        "val_bits_per_byte": _finite(metrics.get("val/bits_per_byte")),
        "best_val_loss": checkpoints.best_val_loss if checkpoints is not None and has_best else None,
        "best_step": checkpoints.best_step if checkpoints is not None else None,
        "skipped_steps": module.guard.n_skipped,
        "best_checkpoint": str(best) if best.exists() else None,
        "last_checkpoint": str(last) if last.exists() else None,
        "job": requeue.job(command),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def _finite(value: float | None) -> float | None:
    """JSON has no nan."""
    return value if value is not None and math.isfinite(value) else None
