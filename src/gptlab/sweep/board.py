"""The HPARAMS tab of TensorBoard over a sweep: its columns are what was swept, and what came of it.

The rows are the runs' own events. Here is said only which of their some eighty settings the sweep is about.
"""

from pathlib import Path

from gptlab.files import whole_file
from gptlab.sweep.record import Axis

EVENTS = "events.out.tfevents.sweep"
"""One name, so that a sweep that goes on writes the same file again. By `tfevents` TensorBoard knows what to read."""
CURVES = {
    "val_loss": "val/loss",
    "best_val_loss": "hp/best_val_loss",
    "val_perplexity": "val/perplexity",
    "val_bits_per_byte": "val/bits_per_byte",
}
"""Of what summary.json has, the curves whose last values are the same."""
ALWAYS = ("val_loss", "best_val_loss", "val_perplexity")


def write_board(sweep_dir: Path, axes: list[Axis], *, metric: str) -> None:
    """Say which columns the tab has over `tensorboard --logdir <sweep_dir>`.

    It shows five swept keys and five metrics at first, and boxes to tick for the others. A metric that has no curve is
    left out; so is a trial that came to no end before its first step, for it has no events.

    Args:
        sweep_dir: the runs' directories lie below it.
        axes: what is swept.
        metric: what the sweep looks at, by its name in summary.json: the first of the metrics.

    Raises:
        OSError: where it cannot be written.
    """
    from tensorboard.compat.proto.event_pb2 import Event  # a second: only who writes pays
    from tensorboard.plugins.hparams.api_pb2 import Experiment, MetricInfo, MetricName
    from tensorboard.summary.writer.record_writer import RecordWriter

    from gptlab.training.loggers.hparams import columns_summary

    metrics = [name for name in dict.fromkeys((metric, *ALWAYS)) if name in CURVES]
    experiment = Experiment(
        hparam_infos=[_column(axis) for axis in axes],
        metric_infos=[MetricInfo(name=MetricName(tag=CURVES[name]), display_name=name) for name in metrics],
    )
    events = [Event(file_version="brain.Event:2"), Event(summary=columns_summary(experiment))]
    with whole_file(sweep_dir / EVENTS) as file:
        records = RecordWriter(file)
        for event in events:
            records.write(event.SerializeToString())


def _column(axis: Axis):  # type: ignore[no-untyped-def]
    """With a box to tick for each choice, or with bounds to type for a number of a range."""
    from google.protobuf.struct_pb2 import ListValue
    from tensorboard.plugins.hparams.api_pb2 import DATA_TYPE_BOOL, DATA_TYPE_FLOAT64, DATA_TYPE_STRING, HParamInfo

    from gptlab.training.loggers.hparams import hparam_value

    if axis.choices is None:
        return HParamInfo(name=axis.key, type=DATA_TYPE_FLOAT64, differs=True)
    choices = [hparam_value(choice) for choice in axis.choices]
    types = {"bool_value": DATA_TYPE_BOOL, "number_value": DATA_TYPE_FLOAT64, "string_value": DATA_TYPE_STRING}
    kinds = {choice.WhichOneof("kind") for choice in choices}
    kind = kinds.pop() if len(kinds) == 1 else "string_value"
    return HParamInfo(name=axis.key, type=types[kind], domain_discrete=ListValue(values=choices), differs=True)
