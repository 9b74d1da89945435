"""`gptlab compare`, end to end: runs of any kind in one picture and one table."""

import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Result
from gptlab.comparison.curves import make_lines, smoothing
from gptlab.comparison.runs import Run, group
from gptlab.training.metrics import COLUMNS
from gptlab.training.run_files import write_config

Command = Callable[..., Result]
Curve = Callable[[int], float]

CONFIG: dict[str, Any] = {
    **{"seed": 1, "context_length": 64, "batch_size": 16, "max_steps": 100, "validate_every": 10, "run_dir": None},
    **{"data._target_": "gptlab.data.text.TextFiles", "data.path": "/texts/poem.txt", "data.num_workers": 0},
    **{"tokenizer._target_": "gptlab.tokenizer.char.CharTokenizer", "model._target_": "gptlab.model.GPT"},
    **{"model.attention._target_": "gptlab.model.attention.fused.FusedAttention", "model.attention._partial_": True},
    **{"model.context_length": 64, "model.dropout": 0.0},
    **{"optimizer._target_": "gptlab.training.optimizers.adamw", "optimizer.lr": 1e-3, "optimizer.betas": [0.9, 0.95]},
    **{"schedule._target_": "gptlab.training.schedules.cosine", "schedule.total_steps": 100},
    **{"logger.csv._target_": "gptlab.training.loggers.metrics_csv.CSV", "logger.csv.save_dir": "${run_dir}"},
    **{"callbacks.samples._target_": "gptlab.training.callbacks.samples.Samples", "callbacks.samples.prompt": None},
}
"""By dotted key."""


def falling(end: float) -> Curve:
    return lambda step: end + 4 * float(np.exp(-step / 20))


TYPICAL = falling(2.0)


def settings_with(**changes: Any) -> dict[str, Any]:
    """`CONFIG` with other values, of keys whose dots are written as two underscores; a dictionary replaces its node."""
    config = dict(CONFIG)
    for key, value in ((key.replace("__", "."), value) for key, value in changes.items()):
        node = value if isinstance(value, dict) else {}
        config = {name: old for name, old in config.items() if name != key and not name.startswith(f"{key}.")}
        config.update({f"{key}.{name}": new for name, new in node.items()} if node else {key: value})
    return config


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for key, value in settings.items():
        *parents, name = key.split(".")
        functools.reduce(lambda node, parent: node.setdefault(parent, {}), parents, config)[name] = value
    return config


def write_run(
    directory: str,
    curve: Curve = TYPICAL,
    *,
    steps: int = 100,
    every: int = 10,
    pace: float = 0.5,
    bits: str | None = None,
    **changes: Any,
) -> Path:
    """A run directory as training leaves it; `pace` is seconds a step, `bits` per byte are the loss by default."""
    run_dir = Path(directory)
    run_dir.mkdir(parents=True)
    write_config(run_dir, nested(settings_with(run_dir=str(run_dir.absolute()), **changes)))
    rows = [",".join(COLUMNS)]
    for step in range(1, steps + 1):
        loss = curve(step)
        per_byte = f"{loss:.6g}" if bits is None else bits
        val = f"{loss:.6g},{np.exp(min(loss, 700.0)):.6g},{per_byte}" if step % every == 0 else ",,"
        rows.append(f"{step},{step * 1024},{step * pace:.6g},{loss:.6g},{val},0.001,1.5,2048")
    (run_dir / "metrics.csv").write_text("\n".join(rows) + "\n")
    return run_dir


def rows_of(result: Result) -> dict[str, list[str]]:
    """The table's cells by label: runs, tokenizer, data, metric, best, at step, bits/byte, steps, tokens, seconds."""
    assert result.status == 0, result.err
    lines = result.out.splitlines()
    begin = next(number for number, line in enumerate(lines) if " runs " in line and " tokenizer " in line)
    cells = [re.split(r"  +", line.strip()) for line in lines[begin + 1 : lines.index("", begin)]]
    return {label: rest for label, *rest in cells}


def as_runs(*metrics: dict[str, list[float]]) -> list[Run]:
    return [
        Run(Path(f"/runs/{n}"), {"seed": n}, {name: np.array(c) for name, c in m.items()})
        for n, m in enumerate(metrics)
    ]


# -- what is drawn ---------------------------------------------------------------------------------------------------


def test_runs_that_differ_in_the_seed_alone_are_one_line_with_mean_and_spread(gptlab: Command) -> None:
    for lr, end in ((0.001, 3.0), (0.01, 2.0)):
        for seed, off in ((1, -0.1), (2, 0.0), (3, 0.1)):
            place = {"data__num_workers": seed, "validate_every": 10 * seed, "seed": seed}
            write_run(f"outputs/{lr}/{seed}", falling(end + off), optimizer__lr=lr, **place)
    result = gptlab("compare", "outputs")
    assert "6 runs, 2 lines" in result.out
    end = 2.0 + 4 * np.exp(-5)
    assert list(rows_of(result)) == ["optimizer.lr=0.01", "optimizer.lr=0.001"], "best first"
    runs, tokenizer, data, loss, best, at_step, bits, *cost = rows_of(result)["optimizer.lr=0.01"]
    assert (runs, tokenizer, data, at_step) == ("3", "char", "poem.txt", "100")
    assert (loss, best) == (f"{end:.4f} ± 0.1000", f"{end:.4f}")
    assert float(bits) == pytest.approx(end, abs=1e-4)
    assert cost == ["100", "102.4k", "50"]
    assert result.out.endswith("outputs/compare.png: val_loss over steps\n"), "beside the runs"
    assert Path("outputs/compare.png").read_bytes().startswith(b"\x89PNG")


def test_the_mean_is_over_the_steps_that_all_seeds_have(gptlab: Command) -> None:
    for seed, steps in ((1, 100), (2, 60), (3, 100)):
        write_run(f"runs/{seed}", falling(2.0 + seed), seed=seed, steps=steps)
    result = gptlab("compare", "runs")
    (cells,) = rows_of(result).values()
    assert cells[3].startswith(f"{4.0 + 4 * np.exp(-3):.4f} ±")
    assert cells[7] == "60", "and no step further"
    assert "1, …: its 3 runs end at steps 60 to 100" in result.out


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.integers(0, 30), st.floats(-5, 5) | st.just(float("nan")), min_size=1),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(["steps", "tokens", "seconds"]),
)
def test_no_value_of_a_line_is_invented(curves: list[dict[int, float]], over: str) -> None:
    metrics = []
    for number, curve in enumerate(curves):
        steps = sorted(curve)
        x = {"tokens": [8.0 * step for step in steps], "seconds": [(1.5 + number) * step for step in steps]}
        metrics.append({"step": [float(step) for step in steps], **x, "val/loss": [curve[step] for step in steps]})
    runs = [run for run in as_runs(*metrics) if np.isfinite(run.metrics["val/loss"]).any()]
    for line in make_lines([("all", runs)] if runs else [], "val/loss", over=over, window=1):
        numbers = [int(run.directory.name) for run in line.runs]
        for index, step in enumerate(line.steps):
            values = [curves[number][int(step)] for number in numbers]
            assert line.mean[index] == pytest.approx(np.mean(values))
            if line.spread is not None:
                assert line.spread[index] == pytest.approx(np.std(values, ddof=1), abs=1e-12)
            scales = {"steps": [1.0], "tokens": [8.0], "seconds": [1.5 + number for number in numbers]}
            assert line.x[index] == pytest.approx(step * np.mean(scales[over]))
        assert (np.diff(line.x) > 0).all()


def test_seeds_without_a_common_step_are_lines_of_their_own(gptlab: Command) -> None:
    write_run("runs/a", falling(2.0), seed=1, steps=15, every=10)
    write_run("runs/b", falling(3.0), seed=2, steps=8, every=8)
    assert list(rows_of(gptlab("compare", "runs"))) == ["a, … (a)", "a, … (b)"]


BPE = {"_target_": "gptlab.tokenizer.bpe.BPETokenizer", "vocab_size": 512}


def test_runs_of_different_tokenizers_are_compared_by_bits_per_byte(gptlab: Command) -> None:
    write_run("runs/char", falling(2.0))
    write_run("runs/bpe", falling(4.0), bits="1.5", tokenizer=BPE)
    result = gptlab("compare", "runs")
    assert [cells[1] for cells in rows_of(result).values()] == ["bpe 512", "char"], "best first"
    assert "sorted by val_bits_per_byte" in result.out
    assert "order means nothing" not in result.out
    result = gptlab("compare", "runs", "metric=val_loss", "to=picture.svg")
    assert list(rows_of(result)) == ["tokenizer=char", "tokenizer=bpe"]
    caveat = "the tokenizers differ: values per token do not compare, and their order means nothing"
    assert caveat in result.out
    assert caveat in Path("picture.svg").read_text()


def test_runs_that_do_not_compare_have_a_warning(gptlab: Command) -> None:
    write_run("runs/char", falling(2.0))
    write_run("runs/bpe", falling(4.0), bits="", tokenizer=BPE)
    result = gptlab("compare", "runs")
    assert "sorted by val_loss" in result.out
    assert "the tokenizers differ: values per token do not compare" in result.out
    assert [cells[6] for cells in rows_of(result).values()] == ["2.0269", "-"]
    write_run("texts/a")
    write_run("texts/b", data__path="/texts/other.txt")
    assert "the texts differ: bits per byte of different texts compare only roughly" in gptlab("compare", "texts").out


def test_single_points_have_error_bars_and_an_axis_that_does_not_magnify_noise(
    gptlab: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr("gptlab.comparison.curves.save", lambda figure, picture: figures.append(figure))
    for seed in (1, 2):
        write_run(f"runs/{seed}", lambda step, seed=seed: 3.86 + seed * 1e-5, steps=10, seed=seed)  # type: ignore[misc]
    assert gptlab("compare", "runs").status == 0
    figures[0].draw_without_rendering()
    axes = figures[0].axes[0]
    assert [type(container).__name__ for container in axes.containers] == ["ErrorbarContainer"]
    assert axes.yaxis.get_offset_text().get_text() == ""
    low, high = axes.get_ylim()
    assert high - low > 0.02 * 3.86


@pytest.mark.parametrize(
    ("over", "metric", "first"),
    [
        ("tokens", "val_perplexity", "0.1"),
        ("seconds", "val/bits_per_byte", "0.1"),
        ("steps", "train_loss", "0.1"),
        ("steps", "tokens_per_second", "0.2"),
    ],
)
def test_every_metric_is_drawn_over_every_axis(gptlab: Command, over: str, metric: str, first: str) -> None:
    write_run("runs/a", falling(2.0), optimizer__lr=0.1)
    metrics = write_run("runs/b", falling(3.0), optimizer__lr=0.2, pace=100.0) / "metrics.csv"
    metrics.write_text(metrics.read_text().replace(",2048\n", ",4096\n"))
    result = gptlab("compare", "runs", f"over={over}", f"metric={metric}", "to=there.svg")
    assert next(iter(rows_of(result))) == f"optimizer.lr={first}"
    assert Path("there.svg").read_text().startswith("<?xml")
    assert not list(Path().rglob("compare.png"))


def test_training_loss_is_a_running_mean_as_long_for_each_run() -> None:
    steps = [float(step) for step in range(1, 401)]
    runs = as_runs(*({"step": steps, "train/loss": [(-1.0) ** step for step in steps]} for _ in range(2)))
    assert smoothing(runs, "train/loss") == 40
    assert smoothing(runs, "val/loss") == smoothing(runs, "lr") == 1
    (line,) = make_lines([("all", runs)], "train/loss", over="steps", window=40)
    assert np.abs(line.mean[40:]).max() < 0.1


def test_many_lines_are_drawn_and_the_best_ten_are_named(gptlab: Command) -> None:
    for number in range(30):
        write_run(f"sweep/{number}", falling(2.0 + number / 10), steps=20, optimizer__lr=(number + 1) / 1000)
    result = gptlab("compare", "sweep", "to=many.svg")
    assert list(rows_of(result)) == [f"optimizer.lr={(number + 1) / 1000:g}" for number in range(30)]
    picture = Path("many.svg").read_text()
    assert re.findall(r"optimizer\.lr=(\S+) -->", picture) == [f"{number / 1000:g}" for number in range(1, 11)]
    assert "20 more" in picture


def test_a_run_that_flies_away_does_not_flatten_the_others(gptlab: Command) -> None:
    write_run("runs/good", falling(2.0), optimizer__lr=0.001)
    write_run("runs/bad", lambda step: 6.0 + step**3, optimizer__lr=1.0)
    write_run("runs/worse", lambda step: 7.0 * step, optimizer__lr=1.0, seed=2)
    assert gptlab("compare", "runs", "metric=val_perplexity").err == ""
    assert gptlab("compare", "runs", "to=picture.svg").status == 0
    assert "higher values are cut off" in Path("picture.svg").read_text()


# -- labels ----------------------------------------------------------------------------------------------------------


LABELS: dict[str, tuple[dict, dict]] = {
    "optimizer.lr=0.001 | optimizer.lr=0.0003": ({"optimizer__lr": 1e-3}, {"optimizer__lr": 3e-4}),
    "optimizer.lr=0.001235 | optimizer.lr=0.9999": ({"optimizer__lr": 0.0012345678}, {"optimizer__lr": 0.9999}),
    "model/attention=plain | model/attention=fused": (
        {"model__attention": {"_target_": "gptlab.model.attention.plain.PlainAttention"}},
        {},
    ),
    "tokenizer=bpe | tokenizer=char": ({"tokenizer": BPE}, {}),
    "schedule=constant schedule.warmup_steps=500 | schedule=cosine schedule.warmup_steps=20": (
        {"schedule": {"_target_": "gptlab.training.schedules.constant", "warmup_steps": 500}},
        {"schedule": {"_target_": "gptlab.training.schedules.cosine", "warmup_steps": 20, "floor": 0.1}},
    ),
    "context_length=32 | context_length=64": ({"context_length": 32, "model__context_length": 32}, {}),
    "data.path='/a/my own.txt' | data.path=/texts/poem.txt": ({"data__path": "/a/my own.txt"}, {}),
    "grad_clip=null | grad_clip=1": ({"grad_clip": None}, {"grad_clip": 1.0}),
    "optimizer.nesterov=true | ~optimizer.nesterov": ({"optimizer__nesterov": True}, {}),
    "callbacks.ema._target_=mine.Average | ~callbacks.ema": ({"callbacks__ema": {"_target_": "mine.Average"}}, {}),
    "batch_size=8 model.dropout=0.5 optimizer.lr=0.1 | batch_size=16 model.dropout=0 optimizer.lr=0.2": (
        {"batch_size": 8, "model__dropout": 0.5, "optimizer__lr": 0.1},
        {"optimizer__lr": 0.2},
    ),
}


@pytest.mark.parametrize(("labels", "changes"), LABELS.items(), ids=LABELS)
def test_a_label_is_the_overrides_that_differ(labels: str, changes: tuple[dict, dict]) -> None:
    runs = [Run(Path(f"/runs/{number}"), settings_with(**change), {}) for number, change in enumerate(changes)]
    groups, notes = group(runs)
    assert (" | ".join(label for label, _ in groups), notes) == (labels, [])


def test_what_changes_no_result_does_not_part_runs(gptlab: Command) -> None:
    write_run("runs/a", seed=1)
    write_run("runs/b", seed=2, callbacks__samples=None, logger={}, resume="/runs/b", model__dropout=0)
    write_run("runs/c", seed=2, callbacks__samples={"_target_": "gptlab.training.callbacks.samples.Samples"})
    result = gptlab("compare", "runs", "to=picture.svg")
    assert [cells[0] for cells in rows_of(result).values()] == ["3"]
    assert "(3 runs)" in Path("picture.svg").read_text()


def test_runs_that_differ_in_much_are_named_by_their_directories(gptlab: Command) -> None:
    write_run("outputs/small/monday", falling(2.0))
    changes = {f"optimizer__setting{number}": number for number in range(9)}
    write_run("outputs/large/friday", falling(1.0), **changes)
    result = gptlab("compare", "outputs")
    assert list(rows_of(result)) == ["large/friday", "small/monday"]
    assert "the lines are labelled by directory: they differ in 9 settings (optimizer.setting0, " in result.out


@pytest.mark.parametrize("content", ["", "seed: 1\n"])
def test_without_a_whole_configuration_a_run_is_named_by_its_directory(gptlab: Command, content: str) -> None:
    for number in (1, 2, 3):
        write_run(f"runs/{number}", falling(number), optimizer__lr=number / 10)
    Path("runs/2/config.yaml").write_text(content)
    result = gptlab("compare", "runs")
    assert list(rows_of(result)) == ["optimizer.lr=0.1", "2", "optimizer.lr=0.3"]
    assert "2: its config.yaml is missing or damaged" in result.out


def as_meant(value: Any) -> Any:
    """Of a setting: 1 and 1.0 are the same, 1 and True are not."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


VALUES = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(0, 1) | st.text(max_size=3)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["a", "b.c", "b.d", "b._target_", "seed", "e.c"]), VALUES), min_size=1))
def test_different_settings_are_different_lines_with_different_labels(configs: list[dict[str, Any]]) -> None:
    runs = [Run(Path(f"/runs/{number}"), config, {}) for number, config in enumerate(configs)]
    groups, _ = group(runs)
    assert len({label for label, _ in groups}) == len(groups)
    assert sorted(id(run) for _, members in groups for run in members) == sorted(map(id, runs))
    different = {repr(sorted((k, as_meant(v)) for k, v in config.items() if k != "seed")) for config in configs}
    assert len(groups) == len(different)


# -- which runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lr=0.1,seed=2", "a, [b] {c}", 'it\'s "one"', "${seed}", "null", "über x$y_z"])
def test_a_directory_may_have_any_name(gptlab: Command, name: str) -> None:
    write_run(name, falling(2.0), optimizer__lr=0.1)
    write_run("other", falling(3.0), optimizer__lr=0.2)
    result = gptlab("compare", name, "other", f"{Path.cwd()}/{name}/")
    assert sorted(rows_of(result)) == ["optimizer.lr=0.1", "optimizer.lr=0.2"]


def test_words_and_settings_may_stand_in_any_order(gptlab: Command) -> None:
    for number in (1, 2, 3):
        write_run(f"runs/{number}", optimizer__lr=number / 10)
    result = gptlab("compare", "runs/1", "over=tokens", "runs=runs/2", "to=here.png", "runs/3")
    assert len(rows_of(result)) == 3
    assert "here.png: val_loss over tokens" in result.out
    assert "over: tokens" in gptlab("compare", "--cfg", "job", "runs/1", "over=tokens").out


def test_a_run_counts_once_however_it_is_named(gptlab: Command) -> None:
    write_run("outputs/a/1", optimizer__lr=0.1)
    write_run("outputs/b/2", optimizer__lr=0.2)
    Path("newest").symlink_to("outputs/b/2")
    Path("outputs/loop").symlink_to("..")
    Path("outputs/again").symlink_to("a/1")
    result = gptlab("compare", "outputs", "outputs/a/1", "newest", "./outputs/../outputs/b", "poem.txt")
    assert "2 runs, 2 lines" in result.out


def test_a_run_without_a_value_yet_is_left_out(gptlab: Command) -> None:
    write_run("runs/a", optimizer__lr=0.1)
    write_run("runs/b", steps=5, optimizer__lr=0.2)
    write_run("runs/c", optimizer__lr=0.3).joinpath("metrics.csv").unlink()
    result = gptlab("compare", "runs")
    assert len(rows_of(result)) == 1
    assert "runs/b has no val_loss yet: left out" in result.out
    assert "runs/c has no val_loss yet: left out" in result.out
    assert "2 runs, 2 lines" in gptlab("compare", "runs", "metric=train_loss").out


@pytest.mark.parametrize("tail", ["101,1034", "101,x,y,z,2.0,,,,,\n", "\x00\x00\n"])
def test_what_a_crash_has_left_at_the_end_of_a_file_is_no_value(gptlab: Command, tail: str) -> None:
    with (write_run("runs/a") / "metrics.csv").open("a") as file:
        file.write(tail)
    ((_, *cells),) = rows_of(gptlab("compare", "runs", "over=tokens")).values()
    assert float(cells[2]) == pytest.approx(TYPICAL(100), abs=1e-4)
    assert cells[-3:-1] == ["100", "102.4k"]


def test_a_real_run_can_be_compared(gptlab: Command, tiny_run: Path) -> None:
    (cells,) = rows_of(gptlab("compare", str(tiny_run))).values()
    loss = json.loads((tiny_run / "summary.json").read_text())["val_loss"]
    assert float(cells[3]) == pytest.approx(loss, abs=1e-4)
    assert cells[-3:-1] == ["6", "1.536k"], "6 steps of 4 sequences of 64 tokens"


# -- mistakes --------------------------------------------------------------------------------------------------------


def mistakes() -> Iterator[tuple[list[str], list[str]]]:
    """Command lines, and words that the sentence must have."""
    yield [], ["runs= is empty", "gptlab compare outputs"]
    yield ["nowhere"], ["nowhere is not there"]
    yield ["no/where=1"], ["no/where=1 is not there"]
    yield ["empty"], ["empty neither is a run directory nor holds any"]
    yield ["poem.txt"], ["poem.txt is a file"]
    yield ["runs", "over=step"], ["over=step must be steps or tokens or seconds", "did you mean steps?"]
    yield ["runs", "metric=val_los"], ["metric=val_los is none of", "did you mean val_loss?"]
    yield ["runs", "metric=step"], ["metric=step is none of"]
    yield ["runs", "ovr=tokens"], ["ovr is not a setting; did you mean over?"]
    yield ["runs", "to=picture.jpg"], ["to=picture.jpg must end in .png"]
    yield ["runs", "to=empty.png"], ["empty.png cannot be written", "to="]
    yield ["runs", "to=no/where.png"], ["no/where.png cannot be written"]
    yield ["young"], ["none of the 1 runs has a val_loss yet"]
    yield ["-m", "runs", "over=steps,tokens"], ["-m is for train"]
    yield ["runs", "--over=tokens"], ["--over=tokens is no flag"]


@pytest.mark.parametrize(("arguments", "words"), [*mistakes()], ids=lambda value: " ".join(value)[:40])
def test_a_mistake_is_one_sentence_and_nothing_is_drawn(
    gptlab: Command, arguments: list[str], words: list[str]
) -> None:
    write_run("runs/a")
    write_run("young", steps=5)
    Path("empty").mkdir()
    Path("empty.png").mkdir()
    before = sorted(Path().rglob("*"))
    result = gptlab("compare", *arguments)
    assert result.status == 2, result
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    for word in words:
        assert word in result.err
    assert sorted(Path().rglob("*")) == before
