"""The picture of a run: loss and perplexity over steps and tokens."""

import math
from pathlib import Path

from gptlab.training.loggers import read_metrics

TRAIN, TRAIN_MEAN, VAL = "#b9c6d6", "#3b6ea5", "#d1603d"


def draw_curves(metrics_csv: Path, picture: Path) -> None:
    """Draw a metrics.csv; nothing where it holds no step. The picture is written whole."""
    from matplotlib.figure import Figure  # half a second: only who draws pays

    if not metrics_csv.exists():
        return
    metrics = read_metrics(metrics_csv)
    steps = metrics["step"]
    if not steps:
        return
    validated = [row for row, loss in enumerate(metrics["val/loss"]) if not math.isnan(loss)]
    train = metrics["train/loss"]
    mean = _running_mean(train, window=max(1, len(train) // 50))
    val_steps = [steps[row] for row in validated]
    val = [metrics["val/loss"][row] for row in validated]

    figure = Figure(figsize=(11, 4.2), dpi=130, layout="constrained")
    loss_axes, perplexity_axes = figure.subplots(1, 2)
    loss_axes.plot(steps, train, color=TRAIN, linewidth=0.8, label="train, each step")
    loss_axes.plot(steps, mean, color=TRAIN_MEAN, linewidth=1.8, label="train, running mean")
    loss_axes.plot(val_steps, val, "o-", color=VAL, linewidth=1.8, markersize=4, label="validation")
    loss_axes.set(title="loss", ylabel="nats per token")
    perplexity_axes.plot(steps, _exp(mean), color=TRAIN_MEAN, linewidth=1.8, label="train, running mean")
    perplexity_axes.plot(val_steps, _exp(val), "o-", color=VAL, linewidth=1.8, markersize=4, label="validation")
    perplexity_axes.set(title="perplexity", yscale="log")
    if val:
        best = min(range(len(val)), key=val.__getitem__)
        for axes, value in ((loss_axes, val[best]), (perplexity_axes, _exp(val)[best])):
            axes.annotate(
                f"best {value:.3f}" if axes is loss_axes else f"best {value:.1f}",
                (val_steps[best], value),
                xytext=(0, 9),
                textcoords="offset points",
                ha="right",
                color=VAL,
                fontweight="bold",
            )
    perplexity_axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    perplexity_axes.yaxis.set_minor_formatter(lambda value, _: f"{value:,.0f}" if value < 1e4 else "")
    tokens_per_step = metrics["tokens"][-1] / steps[-1]
    for axes in (loss_axes, perplexity_axes):
        axes.set_xlabel("optimizer steps")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.grid(alpha=0.25, which="both")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        above = axes.secondary_xaxis("top", functions=(_times(tokens_per_step), _times(1 / tokens_per_step)))
        above.set_xlabel("tokens", fontsize="small")
        above.xaxis.set_major_formatter(lambda value, _: _short(value))
    figure.suptitle(picture.resolve().parent.name, fontsize="medium", x=0.01, ha="left", color="0.4")
    partial = picture.with_name(picture.name + ".tmp")
    figure.savefig(partial, format="png")
    partial.replace(picture)


def _running_mean(values: list[float], window: int) -> list[float]:
    """Mean of up to `window` values that end at each place."""
    means, total = [], 0.0
    for index, value in enumerate(values):
        total += value - (values[index - window] if index >= window else 0.0)
        means.append(total / min(index + 1, window))
    return means


def _exp(values: list[float]) -> list[float]:
    return [math.exp(min(value, 50.0)) for value in values]


def _times(factor: float):  # type: ignore[no-untyped-def]
    return lambda values: values * factor


def _short(value: float) -> str:
    """12_500 -> 12.5k, 3_000_000 -> 3M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"
