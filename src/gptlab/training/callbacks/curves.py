"""curves.png: loss and perplexity over steps and tokens."""

import logging
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from gptlab.training.drawing import frame, running_mean, save, short
from gptlab.training.metrics import ENTROPY_RATE, read_metrics
from gptlab.training.run_files import CURVES, METRICS, read_summary
from gptlab.training.stops import Interrupted

log = logging.getLogger("gptlab")

TRAIN, TRAIN_MEAN, VAL = "#b9c6d6", "#3b6ea5", "#d1603d"


class Curves(L.Callback):
    """Draws curves.png at validations and at the end of the run.

    Args:
        directory: the run directory, with metrics.csv in it.
        every_seconds: least time between two pictures; one takes some tenths of a second.
    """

    def __init__(self, *, directory: str, every_seconds: float) -> None:
        self.directory = Path(directory)
        self.every_seconds = every_seconds
        self._last = time.monotonic()

    def on_validation_end(self, *_: Any) -> None:
        if time.monotonic() - self._last >= self.every_seconds:
            self.on_fit_end()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Interrupted):
            self.on_fit_end()

    @rank_zero_only
    def on_fit_end(self, *_: Any) -> None:
        self._last = time.monotonic()
        try:
            draw_curves(self.directory / METRICS, self.directory / CURVES)
        except Exception as error:  # a missing picture does not end the run
            log.warning("curves.png could not be drawn (%s)", str(error).splitlines()[0])


def draw_curves(metrics_csv: Path, picture: Path) -> None:
    """Draw a metrics.csv, if it holds a step. The picture is written atomically."""
    from matplotlib.figure import Figure  # half a second

    metrics = {name: np.array(values) for name, values in read_metrics(metrics_csv).items()}
    if "step" not in metrics or metrics["step"].max() == 0:
        return
    figure = Figure(figsize=(9, 4.5), dpi=130, layout="constrained")
    title, summary = "/".join(picture.resolve().parts[-3:-1]), read_summary(picture.parent)
    unit = summary.get("unit", "token")
    if not summary.get("causal", True):
        title += " (not causal: each position sees the token it is asked for)"
    figure.suptitle(title, fontsize="small", x=0.01, ha="left", color="0.4")
    axes: Any = figure.subplots()
    steps, train, val = metrics["step"], metrics["train/loss"], metrics["val/loss"]
    trained, validated = ~np.isnan(train), ~np.isnan(val)
    mean = running_mean(train[trained], window=max(1, len(train) // 50))
    axes.plot(steps[trained], train[trained], color=TRAIN, linewidth=0.8, label="train")
    axes.plot(steps[trained], mean, color=TRAIN_MEAN, linewidth=1.8, label="train, running mean")
    label = f"validation, best {np.nanmin(val):.3f}" if validated.any() else None
    axes.plot(steps[validated], val[validated], "o-", color=VAL, linewidth=1.8, markersize=4, label=label)
    rates = metrics.get(ENTROPY_RATE, np.empty(0))
    for rate in rates[np.isfinite(rates)][-1:]:
        dashes: dict[str, Any] = {"linewidth": 1.2, "linestyle": (0, (5, 4)), "zorder": 1}
        axes.axhline(rate, color="0.4", label=f"entropy rate {rate:.4f}", **dashes)
    axes.set(xlabel="optimizer steps", ylabel=f"loss, nats per {unit}")
    if unit == "token":
        per_step = (metrics["tokens"] / np.maximum(steps, 1))[np.isfinite(metrics["tokens"]) & (steps > 0)]
        with np.errstate(all="ignore"):
            _second_scales(axes, tokens_per_step=float(per_step[-1]))
    frame(axes)
    axes.legend(frameon=False)
    save(figure, picture)


def _second_scales(axes: Any, *, tokens_per_step: float) -> None:
    """Tokens above, perplexity on the right."""
    from matplotlib.ticker import FixedLocator, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    tokens = axes.secondary_xaxis("top", functions=(lambda s: s * tokens_per_step, lambda t: t / tokens_per_step))
    tokens.set_xlabel("tokens", fontsize="small")
    tokens.xaxis.set_major_formatter(lambda value, _: short(value))
    perplexity = axes.secondary_yaxis("right")  # the same scale with other numbers on it
    perplexity.set_ylabel("perplexity", fontsize="small")
    perplexity.yaxis.set_major_locator(FixedLocator(axes.get_yticks()))
    perplexity.yaxis.set_major_formatter(lambda loss, _: short(float(np.exp(min(loss, 50.0)))))
