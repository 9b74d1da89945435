"""TensorBoard's events: curves, text, pictures and hyperparameters.

A run does not define the columns of the HPARAMS tab: TensorBoard takes the first definition that it finds, and would
ignore a sweep's. Without columns it lists all settings, those that differ first.
"""

from typing import Any

from google.protobuf.struct_pb2 import Value
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

STATUSES = {"finished": STATUS_SUCCESS, "failed": STATUS_FAILURE}
VITALS = ("lr", "grad_norm", "tokens", "tokens_per_second", "mfu", "skipped_steps")
"""Shown as `vitals/lr` ...: TensorBoard sorts by name, and train/ and val/ should come first, in HPARAMS too."""


class TensorBoard(TensorBoardLogger):
    """Events of one run, straight in its directory. config.yaml replaces Lightning's hparams.yaml."""

    def __init__(self, *, save_dir: str) -> None:
        super().__init__(save_dir=save_dir, name="", version="", default_hp_metric=False)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any]) -> None:  # type: ignore[override]
        """The run's row in the HPARAMS tab, which adds the last value of each curve."""
        self.experiment.file_writer.add_summary(settings_summary(params))

    @rank_zero_only
    def log_end(self, status: str, *, best_val_loss: float | None, step: int) -> None:
        """How the run ended. Resuming cuts it off."""
        if best_val_loss is not None:
            self.log_metrics({"val/best_loss": best_val_loss}, step)
        if status in STATUSES:
            self.experiment.file_writer.add_summary(end_summary(status), step)
        self.experiment.close()

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # type: ignore[override]
        shown = {name: value for name, value in metrics.items() if name not in ("seconds", "epoch")}
        super().log_metrics({f"vitals/{name}" if name in VITALS else name: shown[name] for name in shown}, step)

    @rank_zero_only
    def save(self) -> None:
        """Without Lightning's hparams.yaml."""
        self.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """The file stays open for `log_end`."""
        self.save()


def settings_summary(settings: dict[str, Any]) -> Summary:
    """Numbers, truth values and text; anything else (null, a list) as text."""
    values = {}
    for name, setting in settings.items():
        kind = {bool: "bool_value", int: "number_value", float: "number_value"}.get(type(setting), "string_value")
        values[name] = Value(**{kind: str(setting) if kind == "string_value" else setting})
    data = HParamsPluginData(session_start_info=SessionStartInfo(hparams=values))
    return _summary(metadata.SESSION_START_INFO_TAG, data)


def end_summary(status: str) -> Summary:
    data = HParamsPluginData(session_end_info=SessionEndInfo(status=STATUSES[status]))
    return _summary(metadata.SESSION_END_INFO_TAG, data)


def _summary(tag: str, data: HParamsPluginData) -> Summary:
    about = metadata.create_summary_metadata(data)
    return Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)])
