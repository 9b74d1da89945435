"""Read metrics.csv. Imports no Lightning."""

import csv
import math
from pathlib import Path

from gptlab.training.run_files import METRICS

__all__ = ["COLUMNS", "ENTROPY_RATE", "METRICS", "read_metrics", "read_rows"]

COLUMNS = (
    *("step", "tokens", "seconds", "train/loss", "val/loss", "val/perplexity", "val/bits_per_byte"),
    *("lr", "grad_norm", "tokens_per_second", "mfu"),
)
"""The columns of every run. An objective's further metrics follow."""
ENTROPY_RATE = "val/entropy_rate"
"""Nats per token, the lowest loss that a model can reach; a column only if the data has a known one."""


def read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """The columns' names, and the complete rows as text; a kill may leave half a row. Empty if there is no file."""
    if not path.exists():
        return [], []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        columns, *rows = [*csv.reader(file)] or [[]]
    if "step" not in columns:
        return columns, []
    step = columns.index("step")
    return columns, [row for row in rows if len(row) == len(columns) and row[step].isdecimal()]


def read_metrics(path: Path) -> dict[str, list[float]]:
    """The columns as numbers; nan if a step has no value. Empty if there is no row."""
    columns, rows = read_rows(path)
    return {name: [_number(row[place]) for row in rows] for place, name in enumerate(columns) if rows}


def _number(text: str) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan
