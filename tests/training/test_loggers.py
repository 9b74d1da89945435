import math
from pathlib import Path

from gptlab.training.curves import draw_curves
from gptlab.training.loggers.metrics_csv import CSV
from gptlab.training.metrics import COLUMNS, read_metrics


def write(directory: Path, steps: range) -> CSV:
    logger = CSV(save_dir=str(directory))
    for step in steps:
        logger.log_metrics({"train/loss": 5.0 / step, "tokens": 100 * step}, step)
        if step % 2 == 0:
            logger.log_metrics({"val/loss": 6.0 / step, "val/perplexity": math.exp(6.0 / step)}, step)
    return logger


def test_a_step_is_one_row_with_its_validation(tmp_path: Path) -> None:
    write(tmp_path, range(1, 5)).finalize("success")
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert len(lines) == 5
    metrics = read_metrics(tmp_path / "metrics.csv")
    assert metrics["step"] == [1, 2, 3, 4]
    assert [math.isnan(loss) for loss in metrics["val/loss"]] == [True, False, True, False]


def test_all_but_the_row_under_way_is_on_disk(tmp_path: Path) -> None:
    write(tmp_path, range(1, 5))
    assert read_metrics(tmp_path / "metrics.csv")["step"] == [1, 2, 3]


def test_a_number_that_appears_later_gets_a_column(tmp_path: Path) -> None:
    logger = write(tmp_path, range(1, 3))
    logger.log_metrics({"val/accuracy": 0.5}, 3)
    logger.finalize("success")
    accuracy = read_metrics(tmp_path / "metrics.csv")["val/accuracy"]
    assert [math.isnan(value) for value in accuracy[:2]] == [True, True]
    assert accuracy[2] == 0.5


def test_resuming_cuts_later_and_half_written_rows(tmp_path: Path) -> None:
    write(tmp_path, range(1, 8)).finalize("success")
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4,40")
    logger = CSV(save_dir=str(tmp_path))
    logger.resume_at(4)
    logger.log_metrics({"train/loss": 1.0}, 5)
    logger.save()
    assert read_metrics(tmp_path / "metrics.csv")["step"] == [1, 2, 3, 4, 5]


def test_curves_are_a_picture(tmp_path: Path) -> None:
    write(tmp_path, range(1, 30)).finalize("success")
    draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    picture = (tmp_path / "curves.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000
    assert not list(tmp_path.glob("*.tmp"))


def test_no_metrics_no_picture(tmp_path: Path) -> None:
    draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
