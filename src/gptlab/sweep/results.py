"""results.csv: a row a trial, for a spreadsheet or pandas."""

import csv
import io
from pathlib import Path
from typing import Any

from gptlab.files import write_whole
from gptlab.sweep.record import Axis, TrialRecord

RESULTS = "results.csv"
LOSSES = ("val_loss", "val_perplexity", "best_val_loss")
COSTS = ("steps", "tokens", "seconds")


def write_results(path: Path, records: list[TrialRecord], axes: list[Axis], *, metric: str) -> None:
    """Write the file anew, whole, however many trials there are by now.

    Numbers are written with all their digits, losses in nats per token. What is not known, and null, is empty. A text
    that has lines is put into one.

    Args:
        path: of the file.
        records: a row each, in this order.
        axes: what was swept, a column each.
        metric: what the sweep looks at, by its name in summary.json; it has a column too.

    Raises:
        OSError: where it cannot be written; the file that was there before stays.
    """
    measured = list(dict.fromkeys((*LOSSES, metric, *COSTS)))
    rows: list[list[Any]] = [["trial", "status", "reason", *(axis.key for axis in axes), *measured, "run_dir"]]
    for record in records:
        known = record.summary if record.metric is None else {**record.summary, metric: record.metric}
        values = [record.values.get(axis.key) for axis in axes]
        numbers = [known.get(name) for name in measured]
        rows.append([record.number, record.status, record.reason, *values, *numbers, str(record.run_dir)])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    write_whole(path, text.getvalue())


def _cell(value: Any) -> str:
    """Numbers as Python writes them, true and false as in an override."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(str(value).splitlines()) if isinstance(value, str) else str(value)
