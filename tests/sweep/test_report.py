"""report.html stands alone, holds every trial, and draws whatever the result of a sweep is."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from gptlab.sweep import report
from gptlab.sweep.pictures import View, parallel_coordinates
from gptlab.sweep.report import write_report
from gptlab.sweep.space import Parameter
from gptlab.sweep.trial import TrialRecord
from some_trials import ATTENTION, LONG_KEYS, LR, MIXED, WIDTH, definition, some_trials, trial


class Reader(HTMLParser):
    """Collects what a browser would make of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.rows: list[list[str]] = []  # the cells' texts
        self.headings: list[str] = []
        self.contents: dict[str, list[str]] = {}  # the tags below each h2, up to the next
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attributes if name.startswith("on")]
        self.links += [value or "" for name, value in attributes if name == "href"]
        if tag in ("h1", "h2"):
            self.headings.append("")
        elif len(self.headings) > 1:
            self.contents.setdefault(self.headings[-1], []).append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.lasttag in ("h1", "h2"):
            self.headings[-1] += data.strip()
        if self.rows and self.rows[-1] and self.lasttag != "script":
            self.rows[-1][-1] += data.removesuffix("\n")


def written(place: Path, trials: list[TrialRecord], space: list[Parameter], **changes: Any) -> tuple[str, Reader]:
    about = {"importances": changes.pop("importances", {}), "run_again": changes.pop("run_again", None)}
    write_report(place / "report.html", definition(space, **changes), trials, **about)
    page = (place / "report.html").read_text(encoding="utf-8")
    return page, Reader(page)


def loss(values: dict) -> float:
    return 3 + abs(values["optimizer.lr"] - 0.01)


def test_it_needs_no_other_file_and_has_no_heading_without_content(tmp_path: Path) -> None:
    trials = some_trials(5, [LR, ATTENTION], loss)
    page, reader = written(tmp_path, trials, [LR, ATTENTION])
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest|<link", page)
    assert "default-src 'none'" in page
    assert page.count('src="data:image/svg+xml;base64,') == reader.tags.count("img") == 2
    assert reader.headings[2:] == ["Metric of each trial", "Parallel coordinates", "All trials"]
    page, reader = written(tmp_path, trials, [LR, ATTENTION], importances={"optimizer.lr": 1.0})
    assert reader.headings[2:] == ["Metric of each trial", "Importance", "Parallel coordinates", "All trials"]
    assert {"img", "meter", "table"} <= {*reader.tags}
    assert all(reader.contents[heading] for heading in reader.headings[1:])
    assert "100%" in page


@pytest.mark.parametrize("status", ["failed", "running"])
def test_a_sweep_without_a_result_has_a_page_without_empty_sections(tmp_path: Path, status: str) -> None:
    trials = [trial(0, {"optimizer.lr": 0.01}, status=status, reason="out of memory")]
    _, reader = written(tmp_path, trials, [LR])
    assert reader.headings[1:] == ["No trial has finished.", "All trials"]
    assert reader.rows[1][-1] == "out of memory"
    assert written(tmp_path, [], [LR])[1].headings[1:] == ["No trial has finished."]


def test_nothing_of_a_trial_is_markup(tmp_path: Path) -> None:
    hostile = '</script><b>&amp;"onload="x\'{{table}}<img src=x>'
    trials = [trial(1234, {"optimizer.lr": 0.1}, status="failed", reason=hostile, metric=2.0)]
    command = [f"sweep={hostile}"]
    _, reader = written(tmp_path, trials, [LR], metric=hostile, command=command, run_again=hostile)
    assert reader.headings[0] == f"sweep={hostile}"
    assert not {"b", "img"} & {*reader.tags}
    assert reader.tags.count("script") == 1
    assert (reader.rows[1][0], reader.rows[1][-1]) == ("1,234", hostile)


def test_the_best_trial_comes_first_with_commands_to_paste(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("it's 1?").mkdir()
    Path("it's 1?", "curves.png").touch()
    trials = [
        trial(0, {"optimizer.lr": 0.01}, metric=3.25),
        trial(1, {"optimizer.lr": 0.02}, metric=3.125, run_dir=tmp_path / "it's 1?"),
        trial(2, {"optimizer.lr": 0.03}, metric=1.0, status="pruned"),
    ]
    page, reader = written(Path(), trials, [LR], run_again="gptlab train --config-dir='a b'")
    text = re.sub(r"<[^>]+>", "", page.partition("<body>")[2])
    assert "Best: trial 13.125 val_loss" in text
    assert "gptlab train --config-dir=&#x27;a b&#x27;" in text
    assert "gptlab generate checkpoint=&#x27;it" in text, "relative to the working directory"
    assert "2 finished 1 pruned" in text
    assert [unquote(link) for link in reader.links] == ["it's 1?/curves.png"], "relative to the report"
    page, _ = written(Path(), trials[:2], [LR], direction="maximize", metric="val_accuracy")
    assert "Best: trial 0" in page
    assert "higher <code>val_accuracy</code> is better" in page


@pytest.mark.parametrize(
    ("n", "space", "statuses", "direction"),
    [
        (2, [Parameter("tokenizer", "choice", ("bpe",)), Parameter("seed", "int", (3, 3))], ("pruned",), "minimize"),
        (40, [LR, MIXED, *LONG_KEYS, WIDTH], ("finished", "pruned", "failed", "interrupted", "finished"), "maximize"),
    ],
)
def test_any_result_is_drawn(
    tmp_path: Path, n: int, space: list[Parameter], statuses: tuple[str, ...], direction: str
) -> None:
    values = iter([3.0, 50.0, 1e9, 2.9, -7.0, 3.1] * n)
    trials = some_trials(n, space, lambda _: next(values), statuses)
    _, reader = written(tmp_path, trials, space, direction=direction)
    assert reader.tags.count("img") == 2


@pytest.mark.parametrize("space", [[LR], [LR, MIXED, *LONG_KEYS, WIDTH]])
def test_parallel_coordinates_are_as_wide_as_the_page_and_their_names_do_not_meet(space: list[Parameter]) -> None:
    page = Path(report.__file__).with_name("report.html").read_text(encoding="utf-8")
    assert re.search(r"^img \{.*width: 100%", page, re.MULTILINE)
    figure = parallel_coordinates(View(definition(space, metric="val_bits_per_byte"), some_trials(3, space, loss)))
    figure.draw_without_rendering()
    names = [text.get_window_extent() for text in figure.axes[0].texts if text.get_fontweight() == "bold"]
    assert len(names) == len(space) + 1
    assert all(one.x1 < other.x0 for one, other in pairwise(names))
    assert 0 <= names[0].x0 < 0.15 * figure.bbox.x1
    assert 0.85 * figure.bbox.x1 < names[-1].x1 <= figure.bbox.x1


def view_of(values: list[float], direction: str = "minimize") -> View:
    trials = [trial(number, {"optimizer.lr": 0.1}, metric=value) for number, value in enumerate(values)]
    return View(definition([LR], direction=direction), trials)


def test_a_diverged_trial_does_not_squash_the_others() -> None:
    for sign, direction in ((1, "minimize"), (-1, "maximize")):
        view = view_of([sign * value for value in (3.2, 50.0, 3.0, 3.1, 3.3)], direction)
        assert sorted((view.low, view.high), key=abs) == [sign * 3.0, sign * 3.3]
        assert view.shown(view.finished[1]) == sign * 3.3
    assert (view_of([3.0, 3.5, 4.0, 4.5, 5.0]).low, view_of([3.0, 3.5, 4.0, 4.5, 5.0]).high) == (3.0, 5.0)


def test_the_axis_does_not_zoom_into_noise() -> None:
    view = view_of([3.0001, 3.0002, 3.0003])
    assert view.high - view.low == pytest.approx(0.06, rel=0.01)
    assert view.low < 3.0001 < 3.0003 < view.high
