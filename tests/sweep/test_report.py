"""report.html stands alone, holds every trial, and draws whatever a sweep has come to."""

import base64
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.sweep import report
from gptlab.sweep.pictures import View, parallel_coordinates
from gptlab.sweep.report import write_report
from gptlab.sweep.space import Parameter
from gptlab.sweep.trial import TrialRecord
from some_trials import (
    ANY_SPACE,
    ATTENTION,
    LONG_KEYS,
    LR,
    MIXED,
    WIDTH,
    definition,
    records,
    some_trials,
    texts,
    trial,
)


class Reader(HTMLParser):
    """Collects what a browser would make of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.pictures: list[bytes] = []
        self.rows: list[list[str]] = []  # the cells' texts
        self.heading = ""
        self._inside: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside.append(tag)
        for name, value in attributes:
            assert not name.startswith("on")
            if name == "src":
                kind, _, data = (value or "").partition(",")
                assert kind == "data:image/svg+xml;base64"
                self.pictures.append(base64.b64decode(data))
            if name == "href":
                self.addresses.append(value or "")
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "td" in self._inside:
            self.rows[-1][-1] += data
        if "h1" in self._inside:
            self.heading += data


def written(place: Path, trials: list[TrialRecord], space: list[Parameter], **changes: Any) -> tuple[str, Reader]:
    about: dict[str, Any] = {"importances": {}, "run_again": None}
    about |= {key: changes.pop(key) for key in list(changes) if key in about}
    write_report(place / "report.html", definition(space, **changes), trials, **about)
    page = (place / "report.html").read_text(encoding="utf-8")
    return page, Reader(page)


def loss(values: dict) -> float:
    return 3 + abs(values["optimizer.lr"] - 0.01)


def test_it_needs_no_other_file(tmp_path: Path) -> None:
    page, reader = written(tmp_path, some_trials(5, [LR, ATTENTION], loss), [LR, ATTENTION])
    assert reader.addresses == []
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest|<link", page)
    assert "default-src 'none'" in page
    assert len(reader.pictures) == 2  # history, parallel coordinates
    assert all(b"</svg>" in picture for picture in reader.pictures)
    assert "Importance" not in page
    page, reader = written(tmp_path, some_trials(5, [LR], loss), [LR], importances={"optimizer.lr": 1.0})
    assert "Importance" in page
    assert "100%" in page


@settings(max_examples=60, deadline=None)
@given(records, texts)
def test_every_trial_is_in_the_table_and_nothing_of_it_is_markup(trials: list[TrialRecord], metric: str) -> None:
    pages: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "_pictures", lambda *arguments: "")
        patch.setattr(report, "write_whole", lambda path, text: pages.append(text))
        about = definition(ANY_SPACE, metric=metric, direction="maximize", command=["sweep=<i>"])
        write_report(Path("/sweep/report.html"), about, trials, importances={"<i>": 0.5}, run_again="<b>")
    reader = Reader(pages[0])
    assert reader.heading == "sweep=<i>"
    assert not {"i", "b", "img"} & set(reader.tags)
    assert reader.tags.count("script") == 1
    rows = reader.rows[1:]
    has_reasons = any(record.reason for record in trials)
    lines = [[row[0], row[1], row[-1] if has_reasons else ""] for row in rows]
    # a parser changes carriage returns and zero bytes
    assert [[seen(text) for text in line] for line in lines] == [
        [f"{record.number:,}", record.status, seen(record.reason or "")] for record in trials
    ]


def seen(text: str) -> str:
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f\ufffd]+", " ", text)


def test_the_best_trial_comes_first_with_commands_to_paste(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trials = [
        trial(0, {"optimizer.lr": 0.01}, metric=3.25),
        trial(1, {"optimizer.lr": 0.02}, metric=3.125, run_dir=tmp_path / "it's 1"),
        trial(2, {"optimizer.lr": 0.03}, metric=1.0, status="pruned"),
    ]
    page, _ = written(Path(), trials, [LR], run_again="gptlab train --config-dir='a b'")
    text = re.sub(r"<[^>]+>", "", page.partition("<body>")[2])
    assert "Best: trial 13.125 val_loss" in text
    assert "gptlab train --config-dir=&#x27;a b&#x27;" in text
    assert "gptlab generate checkpoint=&#x27;it" in text, "relative to the working directory"
    assert "2 finished" in page
    assert "1 pruned" in page


def test_if_higher_is_better_the_highest_is_best(tmp_path: Path) -> None:
    trials = [trial(number, {"optimizer.lr": 0.01}, metric=float(number)) for number in range(3)]
    page, _ = written(tmp_path, trials, [LR], direction="maximize", metric="val_accuracy")
    assert "Best: trial 2" in page
    assert "higher <code>val_accuracy</code> is better" in page


@pytest.mark.parametrize("status", ["failed", "running"])
def test_a_sweep_without_a_result_has_a_page_without_empty_sections(tmp_path: Path, status: str) -> None:
    trials = [trial(0, {"optimizer.lr": 0.01}, status=status, reason="out of memory")]
    page, reader = written(tmp_path, trials, [LR])
    assert "No trial has finished" in page
    assert reader.pictures == []
    assert reader.rows[1][-1] == "out of memory"
    assert written(tmp_path, [], [LR])[0].count("<h2>") == 1


def test_the_curves_of_a_run_are_linked_relative_to_the_report(tmp_path: Path) -> None:
    runs = [tmp_path / "a sweep" / "#0?", tmp_path / "a sweep" / "1"]
    for run in runs:
        run.mkdir(parents=True)
    (runs[0] / "curves.png").touch()
    trials = [trial(number, {"optimizer.lr": 0.1}, run_dir=run) for number, run in enumerate(runs)]
    _, reader = written(tmp_path / "a sweep", trials, [LR])
    assert reader.addresses == ["%230%3F/curves.png"]
    assert (tmp_path / "a sweep" / unquote(reader.addresses[0])).is_file()


@pytest.mark.parametrize(
    ("n", "space", "statuses", "direction"),
    [
        (1, [LR], ("finished",), "minimize"),
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
    assert len(reader.pictures) == 2


@pytest.mark.parametrize("space", [[LR], [LR, MIXED, *LONG_KEYS, WIDTH]])
def test_names_above_parallel_coordinates_do_not_meet(space: list[Parameter]) -> None:
    figure = parallel_coordinates(View(definition(space, metric="val_bits_per_byte"), some_trials(3, space, loss)))
    figure.draw_without_rendering()
    names = [text.get_window_extent() for text in figure.axes[0].texts if text.get_fontweight() == "bold"]
    assert len(names) == len(space) + 1
    assert all(one.x1 < other.x0 for one, other in pairwise(names))
    assert names[0].x0 >= 0
    assert names[-1].x1 <= figure.bbox.x1


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


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e99, 1e99), min_size=1), st.sampled_from(["minimize", "maximize"]))
def test_any_metric_has_its_place_in_order(values: list[float], direction: str) -> None:
    view = view_of(sorted(values), direction)
    places = [view.share(record) for record in view.finished]
    assert places == sorted(places)
    assert all(0 <= place <= 1 for place in places)
    assert view.best is not None
    assert view.shown(view.best) == view.best.metric
