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

from gptlab.sweep.record import Axis, TrialRecord
from gptlab.sweep.report import page as report
from gptlab.sweep.report.importance import importances
from gptlab.sweep.report.page import write_report
from gptlab.sweep.report.parallel import parallel_coordinates
from gptlab.sweep.report.pictures import slice_of
from gptlab.sweep.report.scale import scale_of, scale_of_metric
from gptlab.sweep.report.view import view_of
from some_trials import (
    ANY_AXES,
    ATTENTION,
    DROPOUT,
    LONG_KEYS,
    LR,
    MIXED,
    WIDTH,
    numbers,
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


def written(place: Path, trials: list[TrialRecord], axes: list[Axis], **changes: Any) -> tuple[str, Reader]:
    path = place / "report.html"
    about = {"title": "a <b>title</b>", "metric": "val_loss", "direction": "minimize", "run_again": None, **changes}
    write_report(path, records=trials, axes=axes, **about)
    page = path.read_text(encoding="utf-8")
    return page, Reader(page)


def loss(values: dict) -> float:
    return 3 + abs(values["optimizer.lr"] - 0.01)


def test_it_asks_nobody_for_anything(tmp_path: Path) -> None:
    page, reader = written(tmp_path, some_trials(5, [LR, ATTENTION], loss), [LR, ATTENTION])
    assert reader.addresses == []
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest|<link", page)
    assert "default-src 'none'" in page
    assert len(reader.pictures) == 4  # history, parallel coordinates, two slices; importance wants more trials
    assert all(b"</svg>" in picture for picture in reader.pictures)


@settings(max_examples=100, deadline=None)
@given(records, texts)
def test_every_trial_is_in_the_table_and_nothing_of_it_is_markup(trials: list[TrialRecord], metric: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "_pictures", lambda *arguments: "")
        patch.setattr(report, "write_whole", lambda path, text: pages.append(text))
        pages: list[str] = []
        write_report(
            Path("/sweep/report.html"),
            title="<i>",
            metric=metric,
            direction="maximize",
            records=trials,
            axes=ANY_AXES,
            run_again=None,
        )
    reader = Reader(pages[0])
    assert reader.heading == "<i>"
    assert not {"i", "b", "img"} & set(reader.tags)
    assert reader.tags.count("script") == 1
    _, *rows = reader.rows
    lines = [[row[0], row[1], row[-1]] for row in rows]
    # what a parser makes of a carriage return and of a zero byte is its own affair
    assert [[seen(text) for text in line] for line in lines] == [
        [str(record.number), record.status, seen(record.reason or "")] for record in trials
    ]


def seen(text: str) -> str:
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f\ufffd]+", " ", text)


def test_the_best_trial_comes_first_with_commands_to_paste(tmp_path: Path) -> None:
    trials = [
        trial(0, {"optimizer.lr": 0.01}, metric=3.25),
        trial(1, {"optimizer.lr": 0.02}, metric=3.125, run_dir=tmp_path / "it's 1"),
        trial(2, {"optimizer.lr": 0.03}, metric=1.0, status="pruned"),
    ]
    page, _ = written(tmp_path, trials, [LR], run_again="gptlab train experiment='the best'.yaml")
    text = re.sub(r"<[^>]+>", "", page.partition("<main>")[2])
    assert text.strip().startswith("Best: trial 13.125 val_loss")
    assert "gptlab train experiment=&#x27;the best&#x27;.yaml" in text
    assert "gptlab generate checkpoint=&#x27;" in text
    assert "2 finished" in page
    assert "1 pruned" in page


def test_where_higher_is_better_the_highest_is_best(tmp_path: Path) -> None:
    trials = [trial(number, {"optimizer.lr": 0.01}, metric=float(number)) for number in range(3)]
    page, _ = written(tmp_path, trials, [LR], direction="maximize", metric="val/accuracy")
    assert "Best: trial 2" in page
    assert "higher is better" in page


@pytest.mark.parametrize("status", ["failed", "running"])
def test_a_sweep_without_a_result_has_a_page(tmp_path: Path, status: str) -> None:
    trials = [trial(0, {"optimizer.lr": 0.01}, status=status, reason="out of memory")]
    page, reader = written(tmp_path, trials, [LR])
    assert "No trial has finished" in page
    assert reader.pictures == []
    assert reader.rows[1][-1] == "out of memory"
    assert "0 trials" in written(tmp_path, [], [LR])[0]


def test_the_curves_of_a_run_are_linked_from_where_the_report_lies(tmp_path: Path) -> None:
    runs = [tmp_path / "a sweep" / "#0?", tmp_path / "a sweep" / "1"]
    for run in runs:
        run.mkdir(parents=True)
    (runs[0] / "curves.png").touch()
    trials = [trial(number, {"optimizer.lr": 0.1}, run_dir=run) for number, run in enumerate(runs)]
    _, reader = written(tmp_path / "a sweep", trials, [LR])
    assert reader.addresses == ["%230%3F/curves.png"]
    assert (tmp_path / "a sweep" / unquote(reader.addresses[0])).is_file()


@pytest.mark.parametrize(
    ("n", "axes", "statuses", "direction"),
    [
        (1, [LR], ("finished",), "minimize"),
        (2, [Axis("tokenizer", is_log=False, choices=("bpe",))], ("pruned",), "minimize"),
        (40, [LR, MIXED, *LONG_KEYS, WIDTH], ("finished", "pruned", "failed", "interrupted", "finished"), "maximize"),
    ],
)
def test_whatever_came_out_is_drawn(
    tmp_path: Path, n: int, axes: list[Axis], statuses: tuple[str, ...], direction: str
) -> None:
    values = iter([3.0, 50.0, 1e9, 2.9, -7.0, 3.1] * n)
    trials = some_trials(n, axes, lambda _: next(values), statuses=statuses)
    _, reader = written(tmp_path, trials, axes, direction=direction)
    assert len(reader.pictures) == len(axes) + 2 + (statuses.count("finished") * n // len(statuses) >= 12)


@pytest.mark.parametrize("axes", [[LR], [LR, MIXED, *LONG_KEYS, WIDTH], [LR, *LONG_KEYS, *LONG_KEYS]])
def test_names_above_parallel_coordinates_do_not_meet(axes: list[Axis]) -> None:
    view = view_of(some_trials(3, axes, loss), metric="val_bits_per_byte", direction="minimize")
    assert view is not None
    figure = parallel_coordinates(view, axes)
    figure.draw_without_rendering()
    names = [text.get_window_extent() for text in figure.axes[0].texts if text.get_fontweight() == "bold"]
    assert len(names) == len(axes) + 1
    assert all(one.x1 < other.x0 for one, other in pairwise(names))
    assert names[0].x0 >= 0
    assert names[-1].x1 <= figure.bbox.x1


def test_numbers_below_a_slice_do_not_meet() -> None:
    view = view_of(some_trials(9, [LR], loss), metric="val_loss", direction="minimize")
    assert view is not None
    figure = slice_of(view, LR)
    figure.draw_without_rendering()
    labels = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert len(labels) >= 2
    assert all(one.x1 < other.x0 for one, other in pairwise(labels))


def test_a_diverged_trial_does_not_squash_the_others() -> None:
    for sign, direction in ((1, "minimize"), (-1, "maximize")):
        scale = scale_of_metric([sign * value for value in (3.2, 50.0, 3.0, 3.1, 3.3)], direction=direction)
        assert scale.limit == sign * 3.3
        assert scale.is_beyond(sign * 50.0)
        assert not scale.is_beyond(sign * 3.3)
        assert scale.place(sign * 50.0) == scale.place(sign * 3.3)
        assert abs(scale.place(sign * 3.0) - scale.place(sign * 3.2)) > 0.5
    spread = [3.0, 3.5, 4.0, 4.5, 5.0]
    assert not any(map(scale_of_metric(spread, direction="minimize").is_beyond, spread))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e99, 1e99), min_size=1), st.sampled_from(["minimize", "maximize"]))
def test_any_metric_has_its_place_in_order(values: list[float], direction: str) -> None:
    scale = scale_of_metric(values, direction=direction)
    places = [scale.place(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(0 <= place <= 1 for place in (*places, *(place for place, _ in scale.ticks)))
    assert 1 <= len(scale.ticks) <= 5
    best = min(values) if direction == "minimize" else max(values)
    assert not scale.is_beyond(best)
    assert len({scale.place(value) for value in values}) == 1 or scale.place(best) == (direction != "minimize")


@settings(max_examples=100, deadline=None)
@given(st.lists(texts | numbers | st.booleans() | st.none(), min_size=1), st.booleans(), st.booleans())
def test_any_value_has_its_place(values: list, is_log: bool, is_chosen: bool) -> None:
    scale = scale_of(Axis("a", is_log=is_log, choices=tuple(values) if is_chosen else None), values)
    assert all(0 <= scale.place(value) <= 1 for value in values)
    if scale.has_names:
        assert {scale.place(value) for value in values} == {place for place, _ in scale.ticks}


def test_what_decides_is_most_important() -> None:
    axes = [DROPOUT, LR, ATTENTION]
    shares = importances(some_trials(40, axes, loss), axes, direction="minimize")
    assert isinstance(shares, dict)
    assert max(shares, key=shares.__getitem__) == "optimizer.lr"
    assert sum(shares.values()) == pytest.approx(1)
    assert list(shares) == [axis.key for axis in axes]


@pytest.mark.parametrize(
    ("n", "axes", "said"),
    [
        (11, [LR, DROPOUT], "It takes 12 finished trials to tell, and 11 have finished."),
        (12, [LR, Axis("tokenizer", is_log=False, choices=("bpe",))], "One key alone was varied"),
    ],
)
def test_where_importance_cannot_be_told_it_says_why(n: int, axes: list[Axis], said: str) -> None:
    shares = importances(some_trials(n, axes, loss), axes, direction="minimize")
    assert isinstance(shares, str)
    assert shares.startswith(said)
    same = importances(some_trials(20, [LR, DROPOUT], lambda _: 3.0), [LR, DROPOUT], direction="minimize")
    assert same == "All trials came out the same."


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(texts | numbers | st.none(), numbers, st.floats(-1e90, 1e90)), min_size=12, max_size=20))
def test_any_trials_have_importances(tried: list[tuple]) -> None:
    trials = [trial(i, {"a": a, "b/c": b}, metric=metric) for i, (a, b, metric) in enumerate(tried)]
    shares = importances(trials, ANY_AXES, direction="minimize")
    assert isinstance(shares, str) or sum(shares.values()) == pytest.approx(1)
