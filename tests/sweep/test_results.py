"""results.csv has a row for each trial, whatever its result."""

import csv
import math
import tempfile
from pathlib import Path

from hypothesis import given, settings

from gptlab.sweep.search import short, write_results
from gptlab.sweep.trial import TrialRecord
from some_trials import ANY_SPACE, ATTENTION, LR, definition, records, trial


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def test_a_trial_is_a_row(tmp_path: Path) -> None:
    values = {"optimizer.lr": 0.1 + 0.2, "model/attention": "plain"}
    summary = {"val_loss": 2.5, "val_perplexity": 12.18, "best_val_loss": 2.4, "steps": 30, "seconds": 1.5}
    record = trial(3, values, metric=2.5, summary=summary, run_dir=Path("/sweeps/a, b/3"))
    write_results(tmp_path / "results.csv", definition([LR, ATTENTION], metric="val_loss"), [record])
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
    write_results(tmp_path / "results.csv", definition([LR], metric="val_bits_per_byte"), [pruned, failed])
    assert [row["val_bits_per_byte"] for row in rows(tmp_path / "results.csv")] == ["7.0", "3.0"]


def test_a_sweep_that_looks_at_its_cost_has_one_column_for_it(tmp_path: Path) -> None:
    write_results(
        tmp_path / "results.csv", definition([LR], metric="seconds"), [trial(0, {"optimizer.lr": 0.1}, metric=1.5)]
    )
    assert (tmp_path / "results.csv").read_text().splitlines()[0].count("seconds") == 1


@settings(max_examples=100, deadline=None)
@given(records)
def test_any_trial_is_read_back(trials: list[TrialRecord]) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "results.csv")
        write_results(path, definition(ANY_SPACE, metric="val_loss"), trials)
        for row, record in zip(rows(path), trials, strict=True):
            assert row["reason"] == " ".join((record.reason or "").splitlines())
            number = record.values["b/c"]
            assert type(number)(row["b/c"]) == number or math.isnan(number)
            assert (row["val_loss"] == "") == (record.metric is None)


def test_numbers_are_shown_with_four_digits() -> None:
    shown = [short(value) for value in (0.00031416, 1e6, 3.14159, 64, "plain", math.nan)]
    assert shown == ["0.0003142", "1e6", "3.142", "64", "plain", "nan"]
