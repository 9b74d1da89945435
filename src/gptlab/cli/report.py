"""The end of a training run: a short table, and what one would do next."""

import logging
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlab.cli.explain import command_line

if TYPE_CHECKING:
    from gptlab.training.run import Outcome

log = logging.getLogger("gptlab")


def report(outcome: "Outcome", run_dir: Path, *, prompt: str) -> None:
    """Say how the run went, and print the next commands ready to paste."""
    summary, place, end = outcome.summary, shortened(run_dir), outcome.end
    going_on = command_line("train", resume=place, **end.going_on)
    if end.failure is not None:
        where = "" if end.is_shared else f" (traceback in {place}/train.log)"
        log.error("failed at step %d: %s%s", summary["steps"], end.failure, where)
    if end.status == "finished":
        log.info("")
        for name, value in _rows(summary, place).items():
            log.info("  %-14s %s", name, value)
        going_on = command_line("train", resume=place, max_steps=2 * summary["steps"])
    else:
        saved = "nothing was saved yet" if outcome.saved_step is None else f"saved up to step {outcome.saved_step:,}"
        log.info("%s at step %s, %s; to go on:", end.status, f"{summary['steps']:,}", saved)
        log.info("  %s", going_on)
    if summary["last_checkpoint"] is None:
        return
    log.info("")
    log.info("next:")
    log.info("  %s", command_line("generate", checkpoint=place, prompt=prompt))
    log.info("  %s", command_line("inspect", checkpoint=place, prompt=prompt))
    log.info("  tensorboard --logdir %s", "outputs" if Path(place).parts[:1] == ("outputs",) else shlex.quote(place))
    if end.status == "finished":
        log.info("  %s", going_on)
        log.info("  %s", command_line("export", checkpoint=place, to="my-model"))


def shortened(path: Path) -> str:
    """Relative to where the user stands, when it lies below."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def counted(n: int, what: str) -> str:
    """`1 run`, `2,000 runs`."""
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def _rows(summary: dict[str, Any], place: str) -> dict[str, str]:
    minutes, seconds = divmod(round(summary["seconds"]), 60)
    rows = {
        summary["status"]: f"{summary['steps']:,} steps",
        "parameters": f"{summary['parameters']:,}",
        "tokens": f"{summary['tokens']:,}",
        "time": f"{minutes} min {seconds} s",
        "speed": f"{summary['tokens_per_second']:,.0f} tokens/s",
    }
    formats = {
        "train loss": ("train_loss", "{:.4f} nats per token"),
        "val loss": ("val_loss", "{:.4f} nats per token"),
        "best val loss": ("best_val_loss", f"{{:.4f}} at step {summary['best_step'] or 0:,} (generate takes this one)"),
        "perplexity": ("val_perplexity", "{:.2f}"),
        "bits per byte": ("val_bits_per_byte", "{:.4f}"),
    }
    for name, (key, form) in formats.items():
        if summary[key] is not None:
            rows[name] = form.format(summary[key])
    if summary["val_loss"] is not None and summary["val_bits_per_byte"] is None:
        rows["bits per byte"] = "not known: this tokenizer loses bytes"
    return {**rows, "run directory": place}
