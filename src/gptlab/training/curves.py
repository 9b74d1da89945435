"""The picture of a run: loss and perplexity over steps and tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptlab.training.drawing import frame, log_scale, running_mean, save, short
from gptlab.training.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAIN, TRAIN_MEAN, VAL = "#b9c6d6", "#3b6ea5", "#d1603d"


def draw_curves(metrics_csv: Path, picture: Path) -> None:
    """Draw a metrics.csv; nothing where it holds no step. The picture is written whole."""
    from matplotlib.figure import Figure  # half a second: only who draws pays

    metrics = read_metrics(metrics_csv) if metrics_csv.exists() else {}
    if max(metrics.get("step") or [0]) == 0:
        return
    figure = Figure(figsize=(11, 4.2), dpi=130, layout="constrained")
    figure.suptitle("/".join(picture.resolve().parts[-3:-1]), fontsize="small", x=0.01, ha="left", color="0.4")
    loss_axes, perplexity_axes = figure.subplots(1, 2)
    _draw_lines(loss_axes, metrics, "{:.3f}", np.asarray)
    loss_axes.set(title="loss", ylabel="nats per token")
    _draw_lines(perplexity_axes, metrics, "{:.1f}", lambda loss: np.exp(np.minimum(loss, 50.0)))
    perplexity_axes.set_title("perplexity")
    log_scale(perplexity_axes)
    steps, tokens = np.array(metrics["step"]), np.array(metrics["tokens"])
    tokens_per_step = float(np.nanmax(tokens[steps > 0] / steps[steps > 0]))
    for axes in (loss_axes, perplexity_axes):
        _finish(axes, tokens_per_step=tokens_per_step)
    save(figure, picture)


def _draw_lines(
    axes: "Axes", metrics: dict[str, list[float]], best_format: str, of_loss: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Training, its running mean, validation, and where that was best; `of_loss` makes what is shown from losses."""
    steps, train, val = (np.array(metrics[name]) for name in ("step", "train/loss", "val/loss"))
    trained = ~np.isnan(train)  # not at step 0, where there is one
    mean = running_mean(train[trained], window=max(1, len(train) // 50))
    axes.plot(steps[trained], of_loss(train[trained]), color=TRAIN, linewidth=0.8, label="train, each step")
    axes.plot(steps[trained], of_loss(mean), color=TRAIN_MEAN, linewidth=1.8, label="train, running mean")
    validated = ~np.isnan(val)
    steps, val = steps[validated], of_loss(val[validated])
    axes.plot(steps, val, "o-", color=VAL, linewidth=1.8, markersize=4, label="validation")
    if len(val):
        best = int(val.argmin())
        axes.annotate(
            f"best {best_format.format(val[best])}",
            (steps[best], val[best]),
            xytext=(0, 9),
            textcoords="offset points",
            ha="right",
            color=VAL,
            fontweight="bold",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1},
        )


def _finish(axes: "Axes", *, tokens_per_step: float) -> None:
    """Steps below, tokens above."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("optimizer steps")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    above = axes.secondary_xaxis("top", functions=(_times(tokens_per_step), _times(1 / tokens_per_step)))
    above.set_xlabel("tokens", fontsize="small")
    above.xaxis.set_major_formatter(lambda value, _: short(value))
    frame(axes)
    axes.legend(frameon=False)


def _times(factor: float) -> Callable[[Any], Any]:
    return lambda values: values * factor
