"""The run: start its files, fit, stop on signals, and write summary.json."""

import math
import platform
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch

from gptlab.errors import UserError
from gptlab.files import write_json
from gptlab.training.budget import budget_of
from gptlab.training.callbacks.checkpoints import Checkpoints
from gptlab.training.callbacks.signals import StopOnSignal
from gptlab.training.cost import n_non_embedding
from gptlab.training.known_answer import LeakError
from gptlab.training.log import RunLog
from gptlab.training.loggers.metrics_csv import CSV
from gptlab.training.loggers.tensorboard import TensorBoard
from gptlab.training.module import TrainingModule
from gptlab.training.run_files import BEST, LAST, SUMMARY, ResumeState, read_summary, truncate_logs, write_config
from gptlab.training.stops import Interrupted, NonFiniteError, Pruned
from gptlab.training.watch import Watch

NONFINITE_ADVICE = (
    "try a lower optimizer.lr, a longer schedule.warmup_steps or a grad_clip; "
    "on_nonfinite=skip leaves such a step out, trainer.detect_anomaly=true names the operation"
)
EXIT_STATUS = {"finished": 0, "pruned": 0, "failed": 1}  # interrupted: 128 + the signal
PACKAGES = ("gptlab", "torch", "lightning", "numpy", "tiktoken")


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    status: str  # finished, interrupted, pruned or failed
    failure: str | None = None  # why it failed, in one line
    on_all_ranks: bool = True  # whether all ranks ended like this
    has_traceback: bool = False  # in train.log
    resume_with: dict[str, str] = field(default_factory=dict)  # settings that `resume=` needs to get further
    exit_status: int = 0  # of the process
    summary: dict[str, Any] = field(default_factory=dict)  # the content of summary.json
    saved_step: int | None = None  # of last.ckpt; None without one
    requeue: Callable[[], Any] | None = None  # a scheduler's own handler of the signal that came, to be called last


def run(
    *,
    trainer: L.Trainer,
    module: TrainingModule,
    data: L.LightningDataModule,
    run_dir: Path,
    run_log: RunLog,
    hparams: dict[str, Any],
    resume: ResumeState,
) -> RunResult:
    """Train to the last step, a signal or a failure, and write it all into the run directory.

    Args:
        trainer, module, data: made for this run; module.config becomes config.yaml.
        run_dir, run_log: an existing, locked directory, and the log lines that go into its train.log.
        hparams: dotted settings, which the loggers get, for instance for TensorBoard's HPARAMS tab.
        resume: what earlier sessions left; empty for a new run.

    Raises:
        UserError: if a callback refuses its settings. A new run has no config.yaml then.
    """
    # TensorBoard's writer thread passes its OSError to the main thread. Python would print a traceback besides.
    threading.excepthook = lambda args: issubclass(args.exc_type, OSError) or threading.__excepthook__(args)
    if trainer.is_global_zero:
        truncate_logs(run_dir, resume.log_sizes)
    checkpoint = run_dir / "checkpoints" / LAST if resume.checkpoint is not None else None
    signals, start = StopOnSignal(), _Start(run_dir, run_log, hparams, resume)
    watch = Watch(trainer, run_dir)
    trainer.callbacks[:0] = [signals, watch, start]  # type: ignore[attr-defined]
    with signals.handles(), closing(watch):
        result = _fit(trainer, module, data, checkpoint, start, watch)
        summary = summarize(trainer, module, run_dir)
        if resume.run_dir is not None and signals.module is None and result.status != "finished":
            summary |= read_summary(run_dir)  # the last session's numbers are still true
        try:
            if trainer.is_global_zero:
                write_json(run_dir / SUMMARY, summary | {"status": result.status, "failure": result.failure})
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoard):
                    logger.log_end(result.status, best_val_loss=summary["best_val_loss"], step=summary["steps"])
        except OSError as error:
            result = replace(result, status="failed", failure=result.failure or _one_line(error))
    return replace(
        result,
        summary=summary | {"status": result.status, "failure": result.failure},
        exit_status=EXIT_STATUS.get(result.status, 128 + (signals.received or signal.SIGINT)),
        saved_step=_saved_step(run_dir),
        requeue=signals.requeue if result.status == "interrupted" else None,
    )


class _Start(L.Callback):
    """Writes the run's first files, after all callbacks have accepted their settings in setup()."""

    def __init__(self, run_dir: Path, run_log: RunLog, hparams: dict[str, Any], resume: ResumeState) -> None:
        self.run_dir, self.run_log, self.hparams, self.resume = run_dir, run_log, hparams, resume

    def open_files(self, module: TrainingModule) -> None:
        write_config(self.run_dir, module.config)
        self.run_log.open(self.run_dir)

    def on_fit_start(self, trainer: L.Trainer, module: Any) -> None:
        if trainer.is_global_zero:
            self.open_files(module)
        for logger in trainer.loggers:
            if isinstance(logger, CSV):
                logger.begin(module.metric_names, step=self.resume.steps)
            if self.resume.run_dir is None:
                logger.log_hyperparams(self.hparams)
        self._max_steps = trainer.max_steps
        if module.validation_pending and trainer.global_step >= trainer.max_steps:  # Lightning would start nothing
            trainer.fit_loop.epoch_loop.max_steps = trainer.global_step + 1

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        trainer.fit_loop.epoch_loop.max_steps = self._max_steps
        if trainer.is_global_zero:
            write_json(self.run_dir / SUMMARY, {**summarize(trainer, module, self.run_dir), "status": "running"})


def _fit(
    trainer: L.Trainer,
    module: TrainingModule,
    data: L.LightningDataModule,
    checkpoint: Path | None,
    start: _Start,
    watch: Watch,
) -> RunResult:
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except UserError:
        raise
    except Pruned:
        return RunResult("pruned")
    except (Interrupted, KeyboardInterrupt, SystemExit):  # Lightning turns the second Ctrl-C into an exit
        return RunResult("interrupted")
    except NonFiniteError as error:
        resume_with = {} if module.guard.skips else {"on_nonfinite": "skip"}
        return RunResult("failed", f"{error}; {NONFINITE_ADVICE}", resume_with=resume_with)
    except LeakError as error:
        return RunResult("failed", str(error))
    except Exception as error:
        other = watch.other_rank()
        if trainer.is_global_zero:
            with suppress(OSError):  # the disk is full
                start.open_files(module)
            start.run_log.file_only(traceback.format_exc())
        else:
            print(f"rank {trainer.global_rank}: {other or traceback.format_exc()}", file=sys.stderr)
        return RunResult("failed", other or _one_line(error), on_all_ranks=False, has_traceback=other is None)
    return RunResult("finished")


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _saved_step(run_dir: Path) -> int | None:
    try:
        return torch.load(run_dir / "checkpoints" / LAST, weights_only=True, mmap=True)["global_step"]
    except Exception:  # torch reports a missing or broken file in many ways
        return None


def summarize(trainer: L.Trainer, module: TrainingModule, run_dir: Path) -> dict[str, Any]:
    """The content of summary.json, without a status. Unknown values are null, and so are nan and infinity."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    best = next((callback.best for callback in callbacks if isinstance(callback, Checkpoints)), {})
    paths = {name: run_dir / "checkpoints" / name for name in (BEST, LAST)}
    names = ("loss", "perplexity", "bits_per_byte", *module.objective.metrics)
    val_metrics = {f"val_{name}": module.metrics.get(f"val/{name}") for name in names}
    summary = {
        "run_dir": str(run_dir),
        "status": None,
        "failure": None,
        "budget": budget_of(module.config) if "max_steps" in module.config else None,
        "steps": trainer.global_step,
        "tokens": module.n_tokens,
        "seconds": round(module.clock.seconds, 3),
        "tokens_per_second": round(module.n_tokens / max(module.clock.training_seconds, 1e-9), 1),
        "unit": module.unit,
        "causal": module.model.causal or not module.model.generates,
        "parameters": sum(parameter.numel() for parameter in module.model.parameters()),
        "non_embedding_parameters": n_non_embedding(module.model),
        "trainable_parameters": sum(p.numel() for p in module.model.parameters() if p.requires_grad),
        "train_loss": module.steps.recent_loss,
        **val_metrics,
        **module.summary,
        "best_val_loss": best.get("best_val_loss"),
        "best_step": best.get("best_step"),
        "skipped_steps": module.guard.n_skipped,
        "best_checkpoint": str(paths[BEST]) if paths[BEST].exists() else None,
        "last_checkpoint": str(paths[LAST]) if paths[LAST].exists() else None,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in summary.items()}
