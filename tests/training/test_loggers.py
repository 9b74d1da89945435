import math
from pathlib import Path
from typing import Any

import pytest

from gptlab.training.callbacks.curves import draw_curves
from gptlab.training.loggers.metrics_csv import CSV
from gptlab.training.metrics import COLUMNS, ENTROPY_RATE, read_metrics


def write(directory: Path, steps: range) -> CSV:
    logger = CSV(save_dir=str(directory))
    logger.begin(["val/accuracy"], step=0)
    for step in steps:
        logger.log_metrics({"train/loss": 5.0 / step, "tokens": 100 * step}, step)
        if step % 2 == 0:
            logger.log_metrics({"val/loss": 6.0 / step, "val/accuracy": 0.5, "of another callback": 1.0}, step)
    return logger


def test_a_step_is_one_row_with_its_validation_in_the_columns_of_the_run(tmp_path: Path) -> None:
    write(tmp_path, range(1, 5))
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == ",".join([*COLUMNS, "val/accuracy"])
    assert len(lines) == 5
    metrics = read_metrics(tmp_path / "metrics.csv")
    assert metrics["step"] == [1, 2, 3, 4]
    assert [math.isnan(loss) for loss in metrics["val/loss"]] == [True, False, True, False]


def test_resuming_drops_later_and_half_written_rows(tmp_path: Path) -> None:
    write(tmp_path, range(1, 8))
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4,40")
    logger = CSV(save_dir=str(tmp_path))
    logger.begin([], step=5)
    logger.log_metrics({"val/loss": 1.0}, 5)  # the validation that an earlier session had no time for
    logger.log_metrics({"train/loss": 1.0}, 6)
    metrics = read_metrics(tmp_path / "metrics.csv")
    assert metrics["step"] == [1, 2, 3, 4, 5, 6]
    assert metrics["val/loss"][4] == 1.0


def test_curves_are_a_picture(tmp_path: Path) -> None:
    write(tmp_path, range(1, 30))
    draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    picture = (tmp_path / "curves.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000


def test_a_known_entropy_rate_is_a_line_of_the_curves_within_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr("gptlab.training.callbacks.curves.save", lambda figure, picture: figures.append(figure))
    write(tmp_path, range(1, 30))
    draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    logger = CSV(save_dir=str(tmp_path / "known"))
    logger.begin([ENTROPY_RATE], step=0)
    for step in range(1, 30):
        logger.log_metrics({"train/loss": 5.0, "tokens": 100 * step}, step)
    logger.log_metrics({"val/loss": 6.0, ENTROPY_RATE: 1.08321}, 29)
    draw_curves(tmp_path / "known" / "metrics.csv", tmp_path / "curves.png")
    entries = [[text.get_text() for text in figure.axes[0].get_legend().get_texts()] for figure in figures]
    assert ["entropy rate 1.0832" in names for names in entries] == [False, True]
    assert figures[1].axes[0].get_ylim()[0] < 1.0832


def test_curves_of_a_model_that_is_not_causal_say_so(tmp_path: Path) -> None:
    write(tmp_path, range(1, 30))
    pictures = []
    for causal in ("true", "false"):
        (tmp_path / "summary.json").write_text(f'{{"causal": {causal}}}')
        draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.svg")
        pictures.append((tmp_path / "curves.svg").read_text())
    assert ["(not causal: each position" in picture for picture in pictures] == [False, True]
