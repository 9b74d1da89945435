"""The end of a training run: a short table, and what one would do next."""

import logging
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlab.checkpoint.trust import packages_of
from gptlab.cli.explain import command_line
from gptlab.model import gpt2

if TYPE_CHECKING:
    from gptlab.training.module import TrainingModule
    from gptlab.training.run import RunResult

log = logging.getLogger("gptlab")


def report(result: "RunResult", module: "TrainingModule", run_dir: Path) -> None:
    """Say how the run went, and print the next commands ready to paste."""
    config, prompt = module.config, module.data.prompt
    summary, place, is_finished = result.summary, shortened(run_dir), result.status == "finished"
    if result.failure is not None:
        where = f" (traceback in {place}/train.log)" if result.has_traceback else ""
        log.error("failed at step %d: %s%s", summary["steps"], result.failure, where)
    if is_finished:
        _log_table(summary, place)
    else:
        saved = "nothing was saved yet; to start over"
        if result.saved_step is not None:
            saved = f"saved up to step {result.saved_step:,}; to resume"
        log.info("%s at step %s, %s:", result.status, f"{summary['steps']:,}", saved)
        log.info("  %s", command_line("train", resume=place, **result.resume_with))
    if summary["last_checkpoint"] is None:
        return
    foreign = packages_of({name: config.get(name) for name in ("model", "tokenizer", "adapter")})
    trust = {"trust": foreign[0] if len(foreign) == 1 else f"[{','.join(foreign)}]"} if foreign else {}
    log.info("\nnext:")
    key, answers = ("text", {}) if "labels" in config["model"] else ("prompt", {})
    if "template" in config["data"]:
        answers = {"interactive": "true"}
    for command in ("classify",) if key == "text" else ("generate", "inspect"):
        how = answers if command == "generate" else {}
        log.info("  %s", command_line(command, checkpoint=place, **{key: prompt}, **how, **trust))
    log.info("  tensorboard --logdir %s", "outputs" if Path(place).parts[:1] == ("outputs",) else shlex.quote(place))
    if is_finished:
        twice = 2 * summary["steps"]  # by a schedule that has ended, the learning rate may be 0
        schedule = {"schedule.total_steps": twice} if "total_steps" in config["schedule"] else {}
        log.info("  %s", command_line("train", resume=place, max_steps=twice, **schedule))
        if not foreign and gpt2.misfit(module.model) is None:
            log.info("  %s", command_line("export", checkpoint=place, to="my-model"))


def shortened(path: Path) -> str:
    """Relative to the working directory if it lies below."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def counted(n: int, what: str) -> str:
    """`1 run`, `2,000 runs`."""
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def _log_table(summary: dict[str, Any], place: str) -> None:
    unit = summary["unit"]
    nats, at_step = f"{{:.4f}} nats per {unit}", f"at step {summary['best_step'] or 0:,} (commands take this one)"
    low, high = summary.get("test_accuracy_interval") or (0, 0)
    interval = f"{{:.2%}} of {summary.get('test_texts', 0):,} texts, 95 % interval {low:.2%} to {high:.2%} (best.ckpt)"
    rows = {
        summary["status"]: ("{:,} steps", summary["steps"]),
        "parameters": ("{:,}", summary["parameters"]),
        f"{unit}s": ("{:,}", summary["tokens"]),
        "time": ("{0[0]} min {0[1]} s", divmod(round(summary["seconds"]), 60)),
        "speed": (f"{{:,.0f}} {unit}s/s", summary["tokens_per_second"]),
        "train loss": (nats, summary["train_loss"]),
        "val loss": (nats, summary["val_loss"]),
        "ideal loss": (f"{nats} on the same targets", summary.get("val_ideal_loss")),
        "entropy rate": (nats, summary.get("entropy_rate")),
        "best.ckpt": (f"val loss {{:.4f}} {at_step}", summary["best_val_loss"]),
        "perplexity": ("{:.2f}", summary["val_perplexity"]),
        "bits per byte": ("{:.4f}", summary["val_bits_per_byte"]),
        "val accuracy": ("{:.2%}", summary.get("val_accuracy")),
        "test accuracy": (interval, summary.get("test_accuracy")),
        "run directory": ("{}", place),
    }
    log.info("")
    for name, (form, value) in rows.items():
        if value is not None:
            log.info("  %-14s %s", name, form.format(value))
