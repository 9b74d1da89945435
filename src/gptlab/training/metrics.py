"""metrics.csv as it is read: whatever a crash has left of it, and fast. Imports no Lightning."""

import csv
import math
from contextlib import suppress
from pathlib import Path

METRICS = "metrics.csv"
COLUMNS = (
    "step",
    "tokens",
    "seconds",
    "train/loss",
    "val/loss",
    "val/perplexity",
    "val/bits_per_byte",
    "lr",
    "grad_norm",
    "tokens_per_second",
)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows as text; a row that is not whole is none."""
    columns, rows = _table(path)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def read_metrics(path: Path) -> dict[str, list[float]]:
    """The columns; nan where a step has no value, or none that is a number. Empty where there is no row."""
    columns, rows = _table(path)
    return {name: _numbers(values) for name, values in zip(columns, zip(*rows, strict=True), strict=False)}


def _table(path: Path) -> tuple[list[str], list[list[str]]]:
    """The columns' names, and the rows that have a value for each of them and a step among them.

    Rows are lists: dictionaries would take most of the time that a file of 100,000 rows takes.
    """
    if not path.exists():
        return [], []
    columns, rows = [], []
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file, suppress(csv.Error):
        reader = csv.reader(file)
        columns = next(reader, [])
        step = columns.index("step") if "step" in columns else None
        for row in reader:
            if step is not None and len(row) == len(columns) and row[step].isascii() and row[step].isdecimal():
                rows.append(row)
    return columns, rows


def _numbers(column: tuple[str, ...]) -> list[float]:
    try:
        return [float(value) if value else math.nan for value in column]
    except ValueError:
        return [_number(value) for value in column]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
