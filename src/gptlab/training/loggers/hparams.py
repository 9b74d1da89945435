"""What TensorBoard's HPARAMS tab reads: a run's settings, how it ended, and which columns a table of runs has.

No run says what the columns are, though PyTorch's `add_hparams` has each run say it: the tab takes the first that it
finds, in no certain order, so that a sweep's would be found by chance only. Where nobody says it, the tab lists all
settings, those that differ first.
"""

from typing import Any

from google.protobuf.struct_pb2 import Value
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS, Experiment
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

STATUSES = {"finished": STATUS_SUCCESS, "failed": STATUS_FAILURE}
"""As the tab calls them; others are of unknown status to it."""


def settings_summary(settings: dict[str, Any]) -> Summary:
    """Of one run."""
    hparams = {name: hparam_value(setting) for name, setting in settings.items()}
    info = SessionStartInfo(hparams=hparams)
    return _summary(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=info))


def end_summary(status: str) -> Summary:
    """Of one run; `status` is one of STATUSES."""
    info = SessionEndInfo(status=STATUSES[status])
    return _summary(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=info))


def columns_summary(experiment: Experiment) -> Summary:
    """Of all runs below a directory."""
    return _summary(metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=experiment))


def hparam_value(setting: Any) -> Value:
    """Numbers, truth values and texts as they are; anything else (null, a list) is shown as text."""
    if isinstance(setting, bool):  # before numbers, which it is too
        return Value(bool_value=setting)
    if isinstance(setting, int | float):
        return Value(number_value=setting)
    return Value(string_value=str(setting))


def _summary(tag: str, data: HParamsPluginData) -> Summary:
    value = Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
    return Summary(value=[value])
