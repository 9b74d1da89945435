"""The scaling laws of a sweep: which runs each is fitted to, and the report as JSON, text and figure."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.comparison.scaling import Fit, fit, frontier, loss_at, number
from gptlab.errors import UserError
from gptlab.inspection.drawing import FAINT, INK
from gptlab.training.drawing import frame, log_scale, save
from gptlab.training.drawing import short as shortened

N, D = "parameters", "tokens"
JOINT = (BOTH, WITHOUT_EMBEDDINGS) = ("L(N, D)", "L(N, D), N without embeddings")
LAWS: dict[str, tuple[tuple[str, ...], str, str | None]] = {
    BOTH: ((N, D), "E A alpha B beta G a b", None),
    WITHOUT_EMBEDDINGS: (("non_embedding_parameters", D), "E A alpha B beta G a b", None),
    **{"L(N)": ((N,), "E A alpha", D), "L(D)": ((D,), "E B beta", N)},
}
"""For each law: its sizes, its numbers, and the size that is held at its maximum (None: all runs)."""
N_REFITS = 200
LEAST = 3  # different values of a size, for its exponent and its coefficient beside E
ACCENT, MOST_TICKS = "#d1603d", 7


def short(value: float) -> str:
    """499_712 -> 500k: budgets are whole steps."""
    return shortened(float(f"{value:.3g}"))


@dataclass(frozen=True)
class Point:
    """A run, or one that is planned: then it has no loss. Losses are nats per token, FLOPs those of the whole run."""

    run: str
    parameters: int
    non_embedding_parameters: int
    tokens: int
    flops: float | None = None
    val_loss: float | None = None
    entropy_rate: float | None = None

    def sizes(self, law: str) -> np.ndarray:
        """The sizes that a law is of, (k,)."""
        return np.array([getattr(self, name) for name in LAWS[law][0]], dtype=float)

    @property
    def content(self) -> dict[str, Any]:
        """Its numbers, with 6 N D beside the exact FLOPs."""
        n, without, d = self.parameters, self.non_embedding_parameters, self.tokens
        return asdict(self) | {"6_N_D": 6 * n * d, "6_N_D_without_embeddings": 6 * without * d}


def fit_laws(points: list[Point], *, progress: Callable[[], object]) -> dict[str, Fit]:
    """The laws by name; L(N) and L(D) only if enough runs have the largest number of tokens, or of parameters.

    Raises UserError if there are too few runs for L(N, D).
    """
    fits: dict[str, Fit] = {}
    for law, (names, _, largest) in LAWS.items():
        some = [p for p in points if largest is None or getattr(p, largest) == max(getattr(q, largest) for q in points)]
        x, losses = np.array([point.sizes(law) for point in some]), np.array([point.val_loss for point in some])
        different, n_parameters = [len({*column}) for column in x.T], 1 + 2 * len(names)
        if min(different) >= LEAST and len(some) >= n_parameters:
            fits[law] = fit(x, losses, n_refits=N_REFITS, progress=progress)
        elif law in JOINT:
            raise UserError(
                f"{law} has {n_parameters} parameters and needs at least as many runs, of {LEAST} model sizes and "
                f"{LEAST} token budgets: {len(some)} have finished, of {different[0]} and {different[1]}"
            )
    return fits


def described(points: list[Point], fits: dict[str, Fit], held_out: Point | None) -> dict[str, Any]:
    """The content of scaling.json. The laws have not seen `held_out`, which they predict."""
    laws: dict[str, dict[str, Any]] = {}
    for law, found in fits.items():
        table = np.column_stack([found.values, frontier(found.values)]) if law in JOINT else found.values
        laws[law] = {name: number(column) for name, column in zip(LAWS[law][1].split(), table.T, strict=True)}
    rate, interval = points[0].entropy_rate, laws[BOTH]["E"]["interval"]
    within = interval[0] <= rate <= interval[1] if rate is not None and interval is not None else None
    predicted: dict[str, Any] | None = None
    if held_out is not None:
        predicted = held_out.content | {law: fits[law].prediction(held_out.sizes(law)) for law in JOINT}
        loss = held_out.val_loss
        predicted["relative_error"] = loss / predicted[BOTH]["value"] - 1 if loss is not None else None
    content = {"laws": laws, "entropy_rate": rate, "entropy_rate_in_interval_of_E": within, "held_out": predicted}
    return content | {"points": [point.content for point in points]}


def lines(content: dict[str, Any]) -> Iterator[str]:
    """The content of scaling.json for people."""
    points, laws, rate, held_out = (content[name] for name in ("points", "laws", "entropy_rate", "held_out"))
    least, most = ({name: short(end(point[name] for point in points)) for name in (N, D)} for end in (min, max))
    yield f"{len(points)} runs of {least[N]} to {most[N]} parameters and {least[D]} to {most[D]} tokens\n"
    yield f"  {'E + A / N^alpha + B / D^beta':32}{'E':28}{'alpha':28}beta, intervals of 90 %"
    of_one = {"L(N)": f"L(N) at {most[D]} tokens", "L(D)": f"L(D) of {most[N]} parameters"}
    for law, numbers in laws.items():
        cells = [_shown(numbers[name]) if name in numbers else "" for name in ("E", "alpha", "beta")]
        yield f"  {of_one.get(law, law):32}{''.join(f'{cell:28}' for cell in cells)}".rstrip()
    if rate is not None:
        where = {True: ", in the interval of E", False: ", outside the interval of E", None: ""}
        yield f"  {'entropy rate of the data':32}{rate:.4f}{where[content['entropy_rate_in_interval_of_E']]}"
    yield "\nbest sizes at C = 6 N D FLOPs: N grows as C^a, D as C^(1 - a)"
    for law in JOINT:
        n, d = (10 ** laws[law][name]["value"] for name in "ab")
        yield f"  {law:32}a = {_shown(laws[law]['a'])}: 10 times C, {n:.1f} times N, {d:.1f} times D"
    if held_out is not None:
        loss, about = held_out["val_loss"], f"{short(held_out[N])} parameters, {short(held_out[D])} tokens"
        measured = f", measured {loss:.4f} ({held_out['relative_error']:+.2%})" if loss is not None else ""
        yield f"\nheld out: {about}: predicted {_shown(held_out[BOTH])}{measured}"


def _shown(number: dict[str, Any]) -> str:
    """`0.3401 (0.3120 to 0.3720)`"""
    interval = number["interval"]
    return f"{number['value']:.4f}" + (f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval is not None else "")


def draw(points: list[Point], values: np.ndarray, held_out: dict[str, Any] | None, picture: Path) -> None:
    """Three panels: loss over tokens by model size, over parameters by token budget, and over FLOPs. Raises OSError.

    Bands hold 90 % of the refits. `values` (1 + n_refits, 5) are those of L(N, D); `held_out` is as in scaling.json.
    """
    from matplotlib import colormaps  # half a second: only commands that draw pay
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.8), dpi=130, layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    x, losses = np.array([point.sizes(BOTH) for point in points]), np.array([point.val_loss for point in points])
    for axes, across, by in zip(panels, (1, 0, None), (0, 1, 0), strict=True):
        groups = np.unique(x[:, by])
        for size, color in zip(groups, colormaps["viridis"](np.linspace(0.88, 0.08, len(groups))), strict=True):
            runs, curve = x[:, by] == size, np.full((100, 2), size)
            curve[:, 1 - by] = np.geomspace(x[:, 1 - by].min(), x[:, 1 - by].max(), len(curve))
            at, on = (6 * its.prod(axis=1) if across is None else its[:, across] for its in (x[runs], curve))
            if across is not None and len(values) > 1:
                band = np.quantile(loss_at(values[1:, None], curve), (0.05, 0.95), axis=0)
                axes.fill_between(on, *band, color=color, alpha=0.15, linewidth=0)
            axes.plot(on, loss_at(values[0], curve), color=color, linewidth=1.4, alpha=0.4 if across is None else 1)
            axes.plot(at, losses[runs], "o", color=color, label=short(size) if across is not None else None, zorder=3)
        axes.set_xscale("log")
        frame(axes)
        if across is None:
            _draw_frontier(axes, values[0], x, held_out)
        else:
            ticks = np.unique(x[:, across])[:: 1 + len(np.unique(x[:, across])) // MOST_TICKS]
            axes.set_xticks(ticks, map(short, ticks))
            axes.minorticks_off()
        axes.set_xlabel("FLOPs, 6 N D" if across is None else (N, D)[across])
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 9, "alignment": "left"}
        look: dict[str, Any] = {"frameon": False, "fontsize": "small", "handletextpad": 0.4, "columnspacing": 1.2}
        axes.legend(title="" if across is None else (N, D)[by], labelcolor=INK, title_fontsize="small", **place, **look)
        if (rate := points[0].entropy_rate) is not None:
            axes.axhline(rate, color=FAINT, linewidth=1, linestyle=(0, (5, 4)), zorder=1)
            where = {"xycoords": ("axes fraction", "data"), "va": "bottom", "fontsize": "small"}
            axes.annotate("entropy rate of the data", (0.01, rate), color=FAINT, **where)
    panels[0].set_ylabel("validation loss, nats per token")
    log_scale(panels[0])
    save(figure, picture)


def _draw_frontier(axes: Any, values: np.ndarray, x: np.ndarray, held_out: dict[str, Any] | None) -> None:
    """The least loss at each number of FLOPs, and the prediction for the larger model beside what it reached."""
    flops, larger = 6 * x.prod(axis=1), held_out["6_N_D"] if held_out is not None else 0
    flops = np.geomspace(flops.min(), max(flops.max(), larger), 100)
    scale, a, b = frontier(values)
    least = loss_at(values, np.column_stack([scale * (flops / 6) ** a, (flops / 6) ** b / scale]))
    axes.plot(flops, least, color=INK, linewidth=1.6, linestyle="--", label="compute-optimal")
    if held_out is not None:
        loss, interval = held_out[BOTH]["value"], held_out[BOTH]["interval"]
        reach = np.abs(np.array(interval or [loss, loss]) - loss)[:, None]
        look: dict[str, Any] = {"fmt": "D", "color": ACCENT, "markerfacecolor": "white", "markersize": 9, "capsize": 6}
        axes.errorbar(larger, loss, reach, label=f"predicted for {short(held_out[N])}", **look)
        if held_out["val_loss"] is not None:
            axes.plot(larger, held_out["val_loss"], "o", color=INK, markersize=4.5, label="measured", zorder=4)
