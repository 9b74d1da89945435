"""Where numbers go: TensorBoard events and metrics.csv, both straight in the run directory."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from gptlab.files import write_whole

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


class TensorBoard(TensorBoardLogger):
    """Events of one run in one directory, without the hparams.yaml that Lightning adds: config.yaml has it all."""

    def __init__(self, *, save_dir: str) -> None:
        super().__init__(save_dir=save_dir, name="", version="", default_hp_metric=False)

    def resume_at(self, step: int) -> None:
        """Forget what an interrupted session logged after the step that the run goes on from."""
        self._kwargs["purge_step"] = step + 1

    @rank_zero_only
    def log_config(self, flat: dict[str, Any]) -> None:
        """Fill the HPARAMS tab; its metric gets values at each validation."""
        self.log_hyperparams(flat, {"hp/val_loss": math.nan})

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # type: ignore[override]
        shown = {name: value for name, value in metrics.items() if name != "seconds"}
        if "val/loss" in metrics:
            shown["hp/val_loss"] = metrics["val/loss"]
        super().log_metrics(shown, step)
        if "val/loss" in metrics:
            self.experiment.flush()

    @rank_zero_only
    def log_text(self, name: str, text: str, step: int) -> None:
        """Text as it is: indented, so that TensorBoard's markdown leaves it alone."""
        self.experiment.add_text(name, "\n".join("    " + line for line in text.splitlines()), step)

    @rank_zero_only
    def log_image(self, name: str, picture: np.ndarray, step: int) -> None:
        """A picture as pixels, (height, width, 3)."""
        self.experiment.add_image(name, picture, step, dataformats="HWC")

    @rank_zero_only
    def save(self) -> None:
        self.experiment.flush()


class CSV(Logger):
    """metrics.csv: one row a logged step, append-only and flushed.

    A step's training and validation numbers come one after the other; the row is written when the next step begins, or
    at the end. A number that has no column yet, of an objective with metrics of its own, gets one.
    """

    def __init__(self, *, save_dir: str) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self._row: dict[str, float] = {}
        self._columns: list[str] = []  # of the file; none before its first row

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
        if self._row and self._row["step"] != step:
            self.save()
        self._row = {**self._row, **metrics, "step": step or 0}

    @rank_zero_only
    def save(self) -> None:
        if not self._row:
            return
        known = self._columns or COLUMNS
        new = [name for name in self._row if name not in known]
        if new or not self._columns:
            self._write_header([*known, *new])
        with self.path.open("a", newline="") as file:
            values = {name: _rounded(value) for name, value in self._row.items()}
            csv.DictWriter(file, self._columns, lineterminator="\n").writerow(values)
        self._row = {}

    def _write_header(self, columns: list[str]) -> None:
        rows = self.path.read_text().splitlines()[1:] if self.path.exists() else []
        blank = "," * (len(columns) - len(self._columns))
        write_whole(self.path, "\n".join([",".join(columns), *(row + blank for row in rows), ""]))
        self._columns = columns

    @rank_zero_only
    def resume_at(self, step: int) -> None:
        """Cut what an interrupted session wrote after the step that the run goes on from."""
        if not self.path.exists():
            return
        header, *rows = self.path.read_text().splitlines(keepends=True)
        kept = [row for row in rows if row.endswith("\n") and int(row.split(",")[0]) <= step]
        write_whole(self.path, header + "".join(kept))
        self._columns = header.strip().split(",")

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


def _rounded(value: float) -> str | float:
    return value if isinstance(value, int) else f"{value:.6g}"


def read_metrics(path: Path) -> dict[str, list[float]]:
    """The columns of a metrics.csv; nan where a step has no value."""
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    return {name: [float(row[name]) if row[name] else math.nan for row in rows] for name in reader.fieldnames or ()}
