"""The columns of TensorBoard's HPARAMS tab over a sweep. The rows come from the event files of the runs."""

from pathlib import Path

from gptlab.sweep.definition import Definition, validation_metric

ALWAYS = {"data": ("text",), "tokenizer": ("text",)}
SUFFIX = ".sweep"


def write_hparams(sweep_dir: Path, definition: Definition) -> None:
    """Write the event file that makes data, tokenizer and the swept keys the tab's columns, beside the metrics."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from torch.utils.tensorboard.writer import FileWriter

    columns = []
    for key, values in {**ALWAYS, **{entry.key: entry.values for entry in definition.parameters}}.items():
        kind = api_pb2.DATA_TYPE_BOOL if set(values) <= {"true", "false"} else api_pb2.DATA_TYPE_STRING
        kind = api_pb2.DATA_TYPE_FLOAT64 if all(isinstance(value, int | float) for value in values) else kind
        columns.append(api_pb2.HParamInfo(name=key, type=kind, differs=True))
    tags = (validation_metric(definition.metric) or "val/loss", "val/loss", "val/bits_per_byte", "val/perplexity")
    metrics = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in dict.fromkeys(tags)]
    data = HParamsPluginData(experiment=api_pb2.Experiment(hparam_infos=columns, metric_infos=metrics))
    summary_metadata = metadata.create_summary_metadata(data)
    value = Summary.Value(tag=metadata.EXPERIMENT_TAG, metadata=summary_metadata, tensor=metadata.NULL_TENSOR)
    for earlier in sweep_dir.glob(f"events.out.tfevents.*{SUFFIX}"):
        earlier.unlink()
    writer = FileWriter(str(sweep_dir), filename_suffix=SUFFIX)
    writer.add_event(Event(summary=Summary(value=[value])))
    writer.close()
