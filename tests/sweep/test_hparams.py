"""TensorBoard's HPARAMS tab over a sweep shows the swept keys and the results."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.get_experiment import Handler as Columns
from tensorboard.plugins.hparams.list_session_groups import Handler as Rows
from tensorboard.summary.writer.record_writer import RecordWriter

from gptlab.sweep.hparams import write_hparams
from gptlab.training.loggers.tensorboard import end_summary, settings_summary
from some_trials import ATTENTION, LR, WIDTH, definition


def write_run(run_dir: Path, settings: dict[str, Any], losses: list[float], status: str) -> None:
    """What a run writes for the tab."""
    run_dir.mkdir()
    curves = [Summary(value=[Summary.Value(tag="val/loss", simple_value=loss)]) for loss in losses]
    summaries = [settings_summary(settings), *curves, end_summary(status)]
    with (run_dir / "events.out.tfevents.1.host").open("wb") as file:
        records = RecordWriter(file)
        for step, summary in enumerate(summaries):
            records.write(Event(summary=summary, step=step).SerializeToString())


class Tab:
    """The tab, as TensorBoard's own code fills it."""

    def __init__(self, directory: Path) -> None:
        events = EventMultiplexer().AddRunsFromDirectory(str(directory))
        events.Reload()
        provider = MultiplexerDataProvider(events, str(directory))
        self._context = Context(TBContext(data_provider=provider))

    def columns(self) -> dict[str, Any]:
        request = api_pb2.GetExperimentRequest(include_metrics=True)
        return json_format.MessageToDict(Columns(RequestContext(), self._context, "experiment", request).run())

    def rows(self, **filters: Any) -> Iterator[tuple[str, dict[str, Any], dict[str, float], str]]:
        """Name, settings, metrics and status of each run."""
        request = api_pb2.ListSessionGroupsRequest(
            start_index=0, slice_size=100, allowed_statuses=list(api_pb2.Status.values()), **filters
        )
        response = Rows(RequestContext(), self._context, "experiment", request).run()
        for group in json_format.MessageToDict(response)["sessionGroups"]:
            metrics = {metric["name"]["tag"]: metric["value"] for metric in group.get("metricValues", [])}
            yield group["name"], group["hparams"], metrics, group["sessions"][0].get("status", "STATUS_UNKNOWN")


SETTINGS = {"data": "poem.txt", "tokenizer": "char", "optimizer.lr": 0.01, "model.d_model": 64, "seed": 1}


def test_the_tab_over_a_sweep_and_other_runs_has_data_tokenizer_bits_per_byte_and_what_was_swept(
    tmp_path: Path,
) -> None:
    write_run(tmp_path / "mine", {**SETTINGS, "tokenizer": "bpe 512"}, [4.5], "finished")
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    write_run(sweep / "0", SETTINGS, [3.5, 3.25], "finished")
    write_run(sweep / "1", {**SETTINGS, "optimizer.lr": 0.02, "check_device": True}, [], "failed")
    for _ in range(2):  # a resumed sweep
        write_hparams(sweep, definition([LR, WIDTH, ATTENTION], metric="best_val_loss"))
    assert len([path for path in sweep.iterdir() if path.is_file()]) == 1
    columns = Tab(tmp_path).columns()
    assert {column["name"]: column["type"] for column in columns["hparamInfos"]} == {
        "data": "DATA_TYPE_STRING",
        "tokenizer": "DATA_TYPE_STRING",
        "optimizer.lr": "DATA_TYPE_FLOAT64",
        "model.d_model": "DATA_TYPE_FLOAT64",
        "model/attention": "DATA_TYPE_STRING",
    }
    metrics = [metric["name"]["tag"] for metric in columns["metricInfos"]]
    assert metrics == ["val/loss", "val/bits_per_byte", "val/perplexity"]
    rows = {name: rest for name, *rest in Tab(tmp_path).rows()}
    assert [(name, rest[0]["tokenizer"]) for name, rest in rows.items()] == [
        ("mine", "bpe 512"),
        ("sweep/0", "char"),
        ("sweep/1", "char"),
    ]
    assert rows["sweep/0"][1:] == [{"val/loss": 3.25}, "STATUS_SUCCESS"]
    assert rows["sweep/1"][1:] == [{}, "STATUS_FAILURE"]
    assert rows["sweep/1"][0]["optimizer.lr"] == 0.02
