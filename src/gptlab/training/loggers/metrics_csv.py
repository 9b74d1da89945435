"""metrics.csv: one row a step, as it is written."""

import csv
import io
import logging
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from gptlab.files import whole_file
from gptlab.training.appended import AppendedFile
from gptlab.training.metrics import COLUMNS, METRICS, read_rows

log = logging.getLogger("gptlab")


class CSV(Logger):
    """metrics.csv: one row a logged step, append-only and flushed.

    A step's training and validation numbers come one after the other; the row is written when the next step begins, or
    at a save. A number that has no column yet, of an objective with metrics of its own, gets one.
    """

    def __init__(self, *, save_dir: str) -> None:
        super().__init__()
        self.path = Path(save_dir) / METRICS
        self._file = AppendedFile(self.path)
        self._row: dict[str, float] = {}
        self._columns: list[str] = []  # of the file; none before its first row
        self._resumed_at: int | None = None

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self._row and (step or 0) < self._row["step"]:  # of a callback that counts from 0
            step = int(self._row["step"])
        if self._row and self._row["step"] != step:
            self._write_row()
        self._row = {**self._row, **metrics, "step": step or 0}

    @rank_zero_only
    def save(self) -> None:
        """The row under way, and all before it, on the disk."""
        self._write_row()
        self._file.sync()

    def _write_row(self) -> None:
        if not self._row:
            return
        row = {name: str(_rounded(value)) for name, value in self._row.items()}
        new = [name for name in row if name not in (self._columns or COLUMNS)]
        is_there = self._row["step"] == self._resumed_at  # the validation that an interrupted session had no time for
        self._row = {}
        if not self._columns:
            self._columns = [*COLUMNS, *new]
            self._file.append(_line(self._columns, {name: name for name in self._columns}))
        elif new or is_there:
            self._file.sync()
            rows = read_rows(self.path)
            if is_there:
                rows[-1] |= row
            try:
                self._rewrite([*self._columns, *new], rows)
            except OSError as error:
                log.warning(
                    "%s cannot be written (%s): it lacks %s", self.path, error.strerror or error, ", ".join(row)
                )
        if not is_there:
            self._file.append(_line(self._columns, row))

    def _rewrite(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        """The file anew. Raises OSError, and leaves the old one then."""
        self._file.close()
        with whole_file(self.path) as file:
            file.writelines(_line(columns, row) for row in [{name: name for name in columns}, *rows])
        self._columns = columns

    @rank_zero_only
    def resume_at(self, step: int) -> None:
        """Cut what an interrupted session wrote after the step that the run goes on from. Raises OSError."""
        rows = [row for row in read_rows(self.path) if int(row["step"]) <= step]
        if rows:
            self._rewrite(list(rows[0]), rows)
            self._resumed_at = step if int(rows[-1]["step"]) == step else None
        elif step == 0:
            self.path.unlink(missing_ok=True)
        elif self.path.exists():
            aside = self.path.with_name(f"{self.path.name}.damaged")
            self.path.replace(aside)
            log.warning("%s has no row that can be read: put aside as %s", self.path, aside.name)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()
        self._file.close()


def _line(columns: list[str], row: dict[str, str]) -> bytes:
    text = io.StringIO()
    csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n").writerow(row)
    return text.getvalue().encode()


def _rounded(value: float) -> str | float:
    return value if isinstance(value, int) else f"{value:.6g}"
