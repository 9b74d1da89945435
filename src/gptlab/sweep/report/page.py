"""report.html: what a sweep has found, in one file that needs nothing else."""

import os
import shlex
from collections import Counter
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gptlab.files import write_whole
from gptlab.html_page import filled
from gptlab.sweep.record import STATUSES, Axis, TrialRecord
from gptlab.sweep.report.importance import importances
from gptlab.sweep.report.parallel import parallel_coordinates
from gptlab.sweep.report.pictures import as_image, history, importance, slice_of
from gptlab.sweep.report.scale import short, text_of
from gptlab.sweep.report.view import View, view_of

HERE = Path(__file__).parent


def write_report(
    path: Path,
    *,
    title: str,
    metric: str,
    direction: str,
    records: list[TrialRecord],
    axes: list[Axis],
    run_again: str | None,
) -> None:
    """Write the page, whole, whatever the trials came to; it may be written again after each.

    Args:
        path: of the file, beside the run directories.
        title: of the sweep.
        metric: what the sweep looks at, by its name in summary.json.
        direction: minimize or maximize.
        records: of all trials.
        axes: what was swept, at least one.
        run_again: the command that repeats the best trial; None where there is none.

    Raises:
        OSError: where it cannot be written; the file that was there before stays.
    """
    view = view_of(records, metric=metric, direction=direction)
    best = view.best if view is not None else None
    parts = {
        "title": escape(title),
        "style": (HERE / "page.css").read_text(encoding="utf-8"),
        "facts": _facts(path.parent, records, axes, metric=metric, direction=direction),
        "counts": _counts(records),
        "best": _best(path.parent, best, axes, metric, run_again) if best else _nothing_yet(records),
        "pictures": _pictures(view, importances(records, axes, direction=direction), axes) if view else "",
        "table": _table(path.parent, records, axes, metric=metric, best=best),
        "script": (HERE / "page.js").read_text(encoding="utf-8"),
    }
    write_whole(path, filled(HERE / "page.html", parts))


def _facts(sweep_dir: Path, records: list[TrialRecord], axes: list[Axis], *, metric: str, direction: str) -> str:
    keys = ", ".join(f"<code>{escape(axis.key)}</code>" for axis in axes)
    seconds = sum(record.summary.get("seconds") or 0.0 for record in records)
    return (
        f"<code>{escape(metric)}</code>, {_better(direction)} is better, over {keys}; "
        f"{_duration(seconds)} of training in <code>{escape(str(sweep_dir))}</code>"
    )


def _better(direction: str) -> str:
    return "lower" if direction == "minimize" else "higher"


def _counts(records: list[TrialRecord]) -> str:
    counts = Counter(record.status for record in records)
    pills = [f'<span class="status">{len(records)} {"trial" if len(records) == 1 else "trials"}</span>']
    pills += [_status(status, f"{counts[status]} {status}") for status in STATUSES if counts[status]]
    return "".join(pills)


def _status(status: str, text: str) -> str:
    return f'<span class="status {escape(status)}">{escape(text)}</span>'


def _best(sweep_dir: Path, best: TrialRecord, axes: list[Axis], metric: str, run_again: str | None) -> str:
    """The headline: what was best, where it lies, and what one does next."""
    value = short(best.metric or 0.0, 5)
    rows = {axis.key: f"<code>{escape(text_of(best.values[axis.key]))}</code>" for axis in axes}
    for name in ("val_loss", "best_val_loss", "val_perplexity"):
        number = best.summary.get(name)
        if name != metric and number is not None:
            rows[name] = short(number, 5)
    rows["run directory"] = f"<code>{escape(str(best.run_dir))}</code>"
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{shown}</dd>" for name, shown in rows.items())
    commands = {
        "Let it write": f'gptlab generate checkpoint={shlex.quote(str(best.run_dir))} prompt="..."',
        **({"Run it again": run_again} if run_again is not None else {}),
        "Draw all curves": f"gptlab compare {shlex.quote(str(sweep_dir))}",
        "Look at all in TensorBoard": f"tensorboard --logdir {shlex.quote(str(sweep_dir))}",
    }
    to_paste = "".join(f"<h3>{name}</h3><pre>{escape(command)}</pre>" for name, command in commands.items())
    return (
        f'<section class="best"><h2>Best: trial {best.number}</h2>'
        f'<p class="value">{value} <small>{escape(metric)}</small></p>'
        f'<div class="pair"><dl>{listed}</dl><div>{to_paste}</div></div></section>'
    )


def _nothing_yet(records: list[TrialRecord]) -> str:
    is_going_on = any(record.status == "running" for record in records)
    said = "No trial has finished yet." if is_going_on or not records else "No trial has finished with a value."
    return f'<section class="best"><h2>{said}</h2></section>'


def _pictures(view: View, shares: dict[str, float] | str, axes: list[Axis]) -> str:
    metric = escape(view.metric)
    slices = "".join(as_image(slice_of(view, axis), alt=f"{escape(axis.key)} against {metric}") for axis in axes)
    return f"""
<div class="pair">
<section><h2>How the search went</h2><p class="how">{_what_the_marks_mean(view)}</p>
{as_image(history(view), alt=f"{metric} of each trial and the best so far")}</section>
<section><h2>Which key mattered</h2>{_importance(shares)}</section>
</div>
<section><h2>Every trial, from its values to its result</h2>
<p class="how">A line is a trial, darker where it is better, orange for the best, dashed where it was pruned.</p>
<div class="wide">{as_image(parallel_coordinates(view, axes), alt=f"parallel coordinates to {metric}")}</div></section>
<section><h2>Key by key</h2>
<p class="how">Each value against {metric}. Choices are spread a little, so that trials do not hide each other; a line
is their median, from three trials on.</p>
<div class="slices">{slices}</div></section>"""


def _what_the_marks_mean(view: View) -> str:
    """What a legend has no room for."""
    said = [f"{_better('minimize' if view.worst else 'maximize').capitalize()} is better."]
    beyond = [record.metric for record in view.finished if view.is_beyond(record) and record.metric is not None]
    if beyond:
        worst = max(beyond) if view.worst else min(beyond)
        what = "Triangles are trials" if len(beyond) > 1 else "A triangle is a trial"
        said.append(f"{what} far off the scale, which ends at {short(view.scale.limit)}; the worst had {short(worst)}.")
    if view.pruned:
        said.append("Pruned trials stand at the last value they had.")
    if view.others:
        said.append("At the edge stand those without a value.")
    return " ".join(said)


def _importance(shares: dict[str, float] | str) -> str:
    if isinstance(shares, str):
        return f'<p class="how">{escape(shares)}</p>'
    how = (
        "What sets the best trials apart from all: each key's share (PED-ANOVA). It says how much a key mattered "
        "within what was searched, and not which way."
    )
    return f'<p class="how">{how}</p>{as_image(importance(shares), alt="importance of each key")}'


def _table(
    sweep_dir: Path, records: list[TrialRecord], axes: list[Axis], *, metric: str, best: TrialRecord | None
) -> str:
    measured = list(dict.fromkeys((metric, "val_loss", "val_perplexity", "steps", "seconds")))
    heads = ["trial", "status", "curves", *(axis.key for axis in axes), *measured, "reason"]
    head = "".join(f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in heads)
    rows = []
    for record in records:
        known = record.summary if record.metric is None else {**record.summary, metric: record.metric}
        cells = [
            _cell(record.number, str(record.number)),
            f'<td data-key="{escape(record.status)}">{_status(record.status, record.status)}</td>',
            _curves(sweep_dir, record),
            *(_cell(record.values[axis.key], text_of(record.values[axis.key]), "choice") for axis in axes),
            *(_cell(known.get(name), _measure(name, known.get(name))) for name in measured),
            _cell(record.reason, record.reason or "", "reason"),
        ]
        rows.append(f"<tr{' class=first' if record is best else ''}>{''.join(cells)}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _cell(value: Any, shown: str, kind: str = "") -> str:
    """`value` is what the column is sorted by."""
    is_shown_as_number = isinstance(value, int | float) and not isinstance(value, bool)
    key = "" if value is None and kind != "choice" else repr(value) if is_shown_as_number else str(shown)
    name = "number" if is_shown_as_number else kind
    title = f' title="{escape(str(value))}"' if name in ("number", "choice") else ""
    return f'<td class="{name}" data-key="{escape(key)}"{title}>{escape(shown)}</td>'


def _measure(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "seconds":
        return _duration(value)
    return f"{value:,}" if isinstance(value, int) else short(value, 5)


def _duration(seconds: float) -> str:
    """3725 -> 1 h 2 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"


def _curves(sweep_dir: Path, record: TrialRecord) -> str:
    """A link to the picture of the run, from where the report lies."""
    picture = record.run_dir / "curves.png"
    if not picture.exists():
        return '<td data-key=""></td>'
    address = quote(Path(os.path.relpath(picture, sweep_dir.absolute())).as_posix())
    return f'<td data-key="{record.number}"><a href="{escape(address)}">curves</a></td>'
