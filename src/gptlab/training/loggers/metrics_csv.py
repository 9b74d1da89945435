"""metrics.csv: one row per step."""

import csv
import io
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from gptlab.files import whole_file
from gptlab.training.metrics import COLUMNS, METRICS, read_rows


class CSV(Logger):
    """Writes each logged value at once. Training and validation metrics of a step share its row.

    The columns are fixed by the first row: COLUMNS, those of `begin`, and the metrics of that row. A metric that comes
    later is left out.
    """

    name, version = "csv", ""

    def __init__(self, *, save_dir: str) -> None:
        super().__init__()
        self.path = Path(save_dir) / METRICS
        self._further_columns: list[str] = []
        self._columns: list[str] = []
        self._row: dict[str, str] = {}  # of the current step
        self._row_start = 0  # its place in the file, in bytes

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """config.yaml has them."""

    @rank_zero_only
    def begin(self, further_columns: list[str], *, step: int) -> None:
        """Begin a run with these columns, or resume it at `step`: later rows are dropped. Raises OSError.

        Metrics that are logged for `step` itself go to its row.
        """
        self._further_columns = further_columns
        columns, rows = read_rows(self.path)
        rows = [row for row in rows if int(row[columns.index("step")]) <= step]
        if rows:
            self._columns, self._row = columns, dict(zip(columns, rows[-1], strict=True))
            lines = [_line(row) for row in [columns, *rows]]
            self._row_start = sum(map(len, lines[:-1]))
            with whole_file(self.path) as file:
                file.writelines(lines)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Raises OSError if the file cannot be written."""
        if not self._columns:
            self._columns = list(dict.fromkeys([*COLUMNS, *self._further_columns, *metrics]))
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_bytes(_line(self._columns))
        known = {name: _rounded(value) for name, value in metrics.items() if name in self._columns}
        if not known:
            return
        number = max(step or 0, int(self._row.get("step", 0)))  # other callbacks may count from 0
        if self._row.get("step") != str(number):
            self._row, self._row_start = {"step": str(number)}, self.path.stat().st_size
        self._row |= known
        with self.path.open("r+b", buffering=0) as file:
            file.seek(self._row_start)
            file.write(_line([self._row.get(name, "") for name in self._columns]))
            file.truncate()


def _line(values: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()


def _rounded(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:.6g}"
