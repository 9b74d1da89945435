"""results.csv says what came of each trial, whatever that was."""

import csv
import math
import tempfile
from pathlib import Path

from hypothesis import given, settings

from gptlab.sweep.record import TrialRecord
from gptlab.sweep.results import write_results
from some_trials import ANY_AXES, ATTENTION, LR, records, trial


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def test_a_trial_is_a_row(tmp_path: Path) -> None:
    values = {"optimizer.lr": 0.1 + 0.2, "model/attention": "plain"}
    summary = {"val_loss": 2.5, "val_perplexity": 12.18, "best_val_loss": 2.4, "steps": 30, "seconds": 1.5}
    record = trial(3, values, metric=2.5, summary=summary, run_dir=Path("/sweeps/a, b/3"))
    write_results(tmp_path / "results.csv", [record], [LR, ATTENTION], metric="val_loss")
    assert rows(tmp_path / "results.csv") == [
        {
            "trial": "3",
            "status": "finished",
            "reason": "",
            "optimizer.lr": "0.30000000000000004",
            "model/attention": "plain",
            "val_loss": "2.5",
            "val_perplexity": "12.18",
            "best_val_loss": "2.4",
            "steps": "30",
            "tokens": "",
            "seconds": "1.5",
            "run_dir": "/sweeps/a, b/3",
        }
    ]


def test_the_metric_of_the_sweep_has_a_column(tmp_path: Path) -> None:
    pruned = trial(0, {"optimizer.lr": 0.1}, status="pruned", metric=7.0, summary={})
    failed = trial(1, {"optimizer.lr": 0.1}, status="failed", summary={"val_bits_per_byte": 3.0})
    write_results(tmp_path / "results.csv", [pruned, failed], [LR], metric="val_bits_per_byte")
    assert [row["val_bits_per_byte"] for row in rows(tmp_path / "results.csv")] == ["7.0", "3.0"]


def test_a_sweep_that_looks_at_its_cost_has_one_column_for_it(tmp_path: Path) -> None:
    write_results(tmp_path / "results.csv", [trial(0, {"optimizer.lr": 0.1}, metric=1.5)], [LR], metric="seconds")
    assert (tmp_path / "results.csv").read_text().splitlines()[0].count("seconds") == 1


@settings(max_examples=100, deadline=None)
@given(records)
def test_any_trial_is_one_line_and_comes_back(trials: list[TrialRecord]) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "results.csv")
        write_results(path, trials, ANY_AXES, metric="val_loss")
        assert len(path.read_text(encoding="utf-8").split("\n")) == len(trials) + 2
        for row, record in zip(rows(path), trials, strict=True):
            assert row["reason"] == " ".join((record.reason or "").splitlines())
            number = record.values["b/c"]
            assert type(number)(row["b/c"]) == number or math.isnan(number)
            assert (row["val_loss"] == "") == (record.metric is None)
