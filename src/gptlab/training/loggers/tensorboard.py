"""TensorBoard's events: curves, texts, pictures and hyperparameters."""

import os
import socket
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import FileWriter, SummaryWriter

from gptlab.training.appended import AppendedFile
from gptlab.training.loggers.hparams import STATUSES, end_summary, settings_summary


class TensorBoard(TensorBoardLogger):
    """Events of one run in one directory, without the hparams.yaml that Lightning adds: config.yaml has it all.

    Each session of a run writes a file of its own, at once and in this thread: SummaryWriter's own thread would end a
    run whose disk is full.
    """

    def __init__(self, *, save_dir: str) -> None:
        super().__init__(save_dir=save_dir, name="", version="", default_hp_metric=False)
        self._first_step: int | None = None

    @property
    @rank_zero_experiment
    def experiment(self) -> SummaryWriter:
        if self._experiment is None:
            self._experiment = _Writer(self.log_dir, purge_step=self._first_step)
        return self._experiment

    def resume_at(self, step: int) -> None:
        """Tell a TensorBoard that is looking to forget what an interrupted session logged after this step."""
        self._first_step = step + 1

    @rank_zero_only
    def log_config(self, flat: dict[str, Any]) -> None:
        """A row for the HPARAMS tab; beside it the tab shows the last values of five curves, `hp/` among them."""
        self.experiment.file_writer.add_summary(settings_summary(flat))

    @rank_zero_only
    def log_end(self, status: str, *, best_val_loss: float | None, step: int) -> None:
        """How the run ended, behind everything else; resuming cuts it off again."""
        if best_val_loss is not None:
            self.log_metrics({"hp/best_val_loss": best_val_loss}, step)
        if status in STATUSES:
            self.experiment.file_writer.add_summary(end_summary(status), step)
        self.experiment.close()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """All on the disk. The file stays open, for `log_end`."""
        if self._experiment is not None:
            self.save()

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # type: ignore[override]
        shown = {name: value for name, value in metrics.items() if name != "seconds"}
        if "val/loss" in metrics:
            shown["hp/val_loss"] = metrics["val/loss"]
        values = [Summary.Value(tag=name, simple_value=value) for name, value in shown.items()]
        self.experiment.file_writer.add_summary(Summary(value=values), step)  # one record for all

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


class _Writer(SummaryWriter):
    """A SummaryWriter that appends to its file by itself."""

    file_writer: Any
    all_writers: Any

    def _get_file_writer(self) -> FileWriter:
        if self.file_writer is None:
            self.file_writer = _FileWriter(self.log_dir)
            self.all_writers = {self.log_dir: self.file_writer}
            if self.purge_step is not None:
                start = SessionLog(status=SessionLog.START)
                self.file_writer.add_event(Event(session_log=start), self.purge_step)
        return self.file_writer


class _FileWriter(FileWriter):
    def __init__(self, directory: str) -> None:
        self.event_writer = _Events(Path(directory))
        self.add_event(Event(file_version="brain.Event:2"))


class _Events:
    """What FileWriter writes to: one file, in TensorFlow's record format."""

    def __init__(self, directory: Path) -> None:
        began = f"{time.time():017.6f}"  # TensorBoard reads in the order of names: two sessions may share a second
        name = f"events.out.tfevents.{began}.{socket.gethostname()}.{os.getpid()}.{uuid4().hex[:8]}"
        self._file = AppendedFile(directory / name)
        self._records = RecordWriter(self)

    def write(self, record: bytes) -> None:
        self._file.append(record)

    def add_event(self, event: Event) -> None:
        self._records.write(event.SerializeToString())

    def get_logdir(self) -> str:
        return str(self._file.path.parent)

    def flush(self) -> None:
        self._file.sync()

    def reopen(self) -> None:
        """It opens itself."""

    def close(self) -> None:
        self._file.close()
