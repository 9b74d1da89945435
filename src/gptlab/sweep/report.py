"""report.html: the result of a sweep, its pictures and all its trials, in one page that needs no other file."""

import base64
import io
import os
import shlex
from collections import Counter
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from gptlab.files import write_whole
from gptlab.html_page import filled
from gptlab.sweep.definition import Definition
from gptlab.sweep.pictures import View, history, is_number, parallel_coordinates
from gptlab.sweep.search import short
from gptlab.sweep.trial import STATUSES, TrialRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(
    path: Path,
    definition: Definition,
    records: list[TrialRecord],
    *,
    importances: dict[str, float],
    run_again: str | None,
) -> None:
    """Write the page. If `path` is relative, so are the paths in its commands; `run_again` repeats the best trial."""
    view = View(definition, records)
    named = [argument for argument in definition.command if argument.startswith(("sweep=", "experiment="))]
    title = " ".join(named) or f"Sweep of {', '.join(definition.space)}"
    better = "lower" if definition.direction == "minimize" else "higher"
    minutes = sum(record.summary.get("seconds") or 0.0 for record in records) / 60
    counts = Counter(record.status for record in records)
    parts = {
        "title": escape(title),
        "about": f"{better} <code>{escape(definition.metric)}</code> is better; {minutes:,.1f} minutes of training",
        "counts": " ".join(_status(status, f"{counts[status]} {status}") for status in STATUSES if counts[status]),
        "best": _best(path.parent, view, run_again),
        "pictures": _pictures(view, importances) if view.space and (view.finished or view.pruned) else "",
        "table": _table(view) if records else "",
    }
    write_whole(path, filled(Path(__file__).with_name("report.html"), parts))


def _best(sweep_dir: Path, view: View, run_again: str | None) -> str:
    best, metric = view.best, view.definition.metric
    if best is None:
        return '<section class="best"><h2>No trial has finished.</h2></section>'
    place = str(best.run_dir) if sweep_dir.is_absolute() else os.path.relpath(best.run_dir)
    rows = {key: short(value) for key, value in best.values.items()}
    others = {"val_loss", "val_perplexity", "val_bits_per_byte"} - {metric}
    rows |= {name: short(value, 5) for name, value in best.summary.items() if name in others and is_number(value)}
    rows["run directory"] = place
    listed = "".join(f"<dt>{escape(name)}</dt><dd><code>{escape(value)}</code></dd>" for name, value in rows.items())
    commands = {
        "Run it again": run_again or "",
        "Generate text": f"gptlab generate checkpoint={shlex.quote(place)}",
        "Compare the curves": f"gptlab compare {shlex.quote(str(sweep_dir))}",
        "All trials in TensorBoard": f"tensorboard --logdir {shlex.quote(str(sweep_dir))}",
    }
    pasted = "".join(f"<div>{name}</div><pre>{escape(command)}</pre>" for name, command in commands.items() if command)
    return (
        f'<section class="best"><h2>Best: trial {best.number}</h2>'
        f'<p class="value">{short(best.metric, 5)} <small>{escape(metric)}</small></p>'
        f"<dl>{listed}</dl>{pasted}</section>"
    )


def _pictures(view: View, importances: dict[str, float]) -> str:
    beyond = any(is_number(record.metric) and view.shown(record) != record.metric for record in view.records)
    note = '<p class="note">Trials that are much worse stand at the end of the axis.</p>' if beyond else ""
    pair = f"<section><h2>Metric of each trial</h2>{note}{_image(history(view))}</section>"
    if importances:
        bars = "".join(
            f'<dt>{escape(key)}</dt><dd><meter value="{share:.3f}"></meter> {share:.0%}</dd>'
            for key, share in sorted(importances.items(), key=lambda item: -item[1])
        )
        note = "Share of each key in what distinguishes the best trials (PED-ANOVA), within what was searched."
        pair += f'<section><h2>Importance</h2><p class="note">{note}</p><dl>{bars}</dl></section>'
    note = "Each line is a trial: darker is better, orange is the best one, dashed lines were pruned."
    return (
        f'<div class="pair">{pair}</div><section><h2>Parallel coordinates</h2><p class="note">{note}</p>'
        f"{_image(parallel_coordinates(view))}</section>"
    )


def _image(figure: "Figure") -> str:
    import matplotlib as mpl

    content = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "gptlab"}):  # the same file each time
        figure.savefig(content, format="svg", metadata={"Date": None})
    return f'<img alt="" src="data:image/svg+xml;base64,{base64.b64encode(content.getvalue()).decode()}">'


def _table(view: View) -> str:
    measured = list(dict.fromkeys((view.definition.metric, "val_loss", "val_perplexity", "steps", "seconds")))
    reason = ["reason"] if any(record.reason for record in view.records) else []
    heads = ["trial", "status", "curves", *view.definition.space, *measured, *reason]
    head = "".join(f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in heads)
    rows = []
    for record in view.records:
        known = record.summary if record.metric is None else {**record.summary, view.definition.metric: record.metric}
        status = f'<td data-key="{record.status}">{_status(record.status, record.status)}</td>'
        values = [*map(record.values.get, view.definition.space), *map(known.get, measured)]
        cells = [_cell(record.number), status, _curves(record), *map(_cell, values)]
        cells += [_cell(record.reason)] if reason else []
        rows.append(f"<tr{' class=first' if record is view.best else ''}>{''.join(cells)}</tr>")
    return (
        '<section><h2>All trials</h2><p class="note">Click a column to sort by it. Losses are in nats.</p>'
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div></section>'
    )


def _cell(value: Any) -> str:
    """`data-key` is what the column is sorted by."""
    shown = "" if value is None else f"{value:,}" if isinstance(value, int) else short(value, 5)
    kind, key = ("number", repr(value)) if isinstance(value, int | float) else ("text", shown)
    return f'<td class="{kind}" data-key="{escape(key)}">{escape(shown)}</td>'


def _curves(record: TrialRecord) -> str:
    """A link to the picture of the run, relative to the report."""
    link = f'<a href="{quote(record.run_dir.name)}/curves.png">curves</a>'
    return f'<td data-key="{record.number}">{link if (record.run_dir / "curves.png").exists() else ""}</td>'


def _status(status: str, text: str) -> str:
    return f'<span class="status {status}">{escape(text)}</span>'
