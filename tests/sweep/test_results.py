"""results.csv has a row for each trial, whatever its result."""

import csv
from pathlib import Path

from gptlab.sweep.search import write_results
from some_trials import ATTENTION, LR, definition, trial


def test_a_trial_is_a_row(tmp_path: Path) -> None:
    values = {"optimizer.lr": 0.1 + 0.2, "model/attention": "plain"}
    summary = {"val_loss": 2.5, "val_perplexity": 12.18, "best_val_loss": 2.4, "steps": 30, "seconds": 1.5}
    summary["budget"] = "max_steps=30"
    runs = [
        trial(0, values, metric=2.5, summary=summary, run_dir=Path("/sweeps/a, b/0")),
        trial(1, values, status="pruned", metric=7.0, summary={}),
        trial(2, values, status="failed", reason="two\nlines, and more", summary={"val_bits_per_byte": 3.0}),
    ]
    write_results(tmp_path / "results.csv", definition([LR, ATTENTION], metric="val_bits_per_byte"), runs)
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as file:
        first, pruned, failed = csv.DictReader(file, strict=True)
    assert first == {
        "trial": "0",
        "status": "finished",
        "reason": "",
        "optimizer.lr": "0.30000000000000004",
        "model/attention": "plain",
        "val_loss": "2.5",
        "val_perplexity": "12.18",
        "best_val_loss": "2.4",
        "budget": "max_steps=30",
        "steps": "30",
        "tokens": "",
        "seconds": "1.5",
        "val_bits_per_byte": "2.5",
        "run_dir": "/sweeps/a, b/0",
    }
    assert (pruned["status"], pruned["val_bits_per_byte"]) == ("pruned", "7.0")
    assert (failed["reason"], failed["val_bits_per_byte"]) == ("two lines, and more", "3.0")
