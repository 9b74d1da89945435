"""`gptlab compare`, end to end: runs of any kind in one picture and one table."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import CONF, Result
from gptlab.build import leaves
from gptlab.comparison.labels import FOLLOWING, group
from gptlab.comparison.lines import make_lines, smoothing
from gptlab.comparison.runs import Run
from gptlab.training.metrics import COLUMNS
from gptlab.training.run_files import write_config

Command = Callable[..., Result]
Curve = Callable[[int], float]

CONFIG: dict[str, Any] = {
    "seed": 1,
    "context_length": 64,
    "batch_size": 16,
    "max_steps": 100,
    "validate_every": 10,
    "run_dir": None,
    "resume": None,
    "data": {"_target_": "gptlab.data.text.TextFiles", "path": "/texts/poem.txt", "num_workers": 0},
    "tokenizer": {"_target_": "gptlab.tokenizer.char.CharTokenizer"},
    "model": {
        "_target_": "gptlab.model.GPT",
        "attention": {"_target_": "gptlab.model.attention.fused.FusedAttention", "_partial_": True},
        "context_length": 64,
        "dropout": 0.0,
    },
    "optimizer": {"_target_": "gptlab.training.optimizers.adamw", "lr": 1e-3, "betas": [0.9, 0.95]},
    "schedule": {"_target_": "gptlab.training.schedules.cosine", "total_steps": 100},
    "logger": {"csv": {"_target_": "gptlab.training.loggers.metrics_csv.CSV", "save_dir": "${run_dir}"}},
    "callbacks": {"samples": {"_target_": "gptlab.training.callbacks.samples.Samples", "prompt": None}},
}


def falling(end: float) -> Curve:
    return lambda step: end + 4 * float(np.exp(-step / 20))


TYPICAL = falling(2.0)


def config_with(**changes: Any) -> dict[str, Any]:
    """`CONFIG` with other values, of keys whose dots are written as two underscores; a dictionary replaces its node."""
    config = {name: dict(node) if isinstance(node, dict) else node for name, node in CONFIG.items()}
    for key, value in changes.items():
        *parents, name = key.split("__")
        node = config
        for parent in parents:
            node[parent] = dict(node[parent])
            node = node[parent]
        node[name] = value
    return config


def write_run(
    directory: str, curve: Curve = TYPICAL, *, steps: int = 100, every: int = 10, pace: float = 0.5, **changes: Any
) -> Path:
    """A run directory as training leaves it; `pace` is seconds a step."""
    run_dir = Path(directory)
    run_dir.mkdir(parents=True)
    write_config(run_dir, config_with(run_dir=str(run_dir.absolute()), **changes))
    rows = [",".join(COLUMNS)]
    for step in range(1, steps + 1):
        loss = curve(step)
        val = f"{loss:.6g},{np.exp(min(loss, 700.0)):.6g},{loss:.6g}" if step % every == 0 else ",,"
        rows.append(f"{step},{step * 1024},{step * pace:.6g},{loss:.6g},{val},0.001,1.5,2048")
    (run_dir / "metrics.csv").write_text("\n".join(rows) + "\n")
    return run_dir


def rows_of(result: Result) -> dict[str, list[str]]:
    """The table's cells by label."""
    assert result.status == 0, result.err
    lines = result.out.splitlines()
    begin = next(number for number, line in enumerate(lines) if " runs " in line)
    cells = [re.split(r"  +", line.strip()) for line in lines[begin + 1 : lines.index("", begin)]]
    return {label: rest for label, *rest in cells}


def size_of(picture: str | Path) -> tuple[int, int]:
    """Width and height of a PNG."""
    content = Path(picture).read_bytes()
    assert content.startswith(b"\x89PNG")
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def as_runs(*metrics: dict[str, list[float]], seeds: bool = True) -> list[Run]:
    return [
        Run(Path(f"/runs/{number}"), {"seed": number if seeds else 0}, {name: np.array(c) for name, c in m.items()})
        for number, m in enumerate(metrics)
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
    assert rows_of(result)["optimizer.lr=0.01"] == [
        *("3", f"{end:.4f}", "± 0.1000", f"{end:.4f}", "± 0.1000"),
        *("100", "100", "102.4k", "50.0"),
    ]
    assert result.out.endswith("compare.png: val_loss over steps\n")
    assert size_of("compare.png")[0] > size_of("compare.png")[1]
    assert not list(Path().glob("*.tmp"))


def test_the_mean_is_over_the_steps_that_all_seeds_have(gptlab: Command) -> None:
    for seed, steps in ((1, 100), (2, 60), (3, 100)):
        write_run(f"runs/{seed}", falling(2.0 + seed), seed=seed, steps=steps)
    result = gptlab("compare", "runs")
    (cells,) = rows_of(result).values()
    assert cells[:2] == ["3", f"{4.0 + 4 * np.exp(-3):.4f}"]
    assert cells[6] == "60", "and no step further"
    assert "1, 2, 3: its 3 seeds end at steps 60 to 100" in result.out


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
    assert list(rows_of(gptlab("compare", "runs"))) == ["a, b (a)", "a, b (b)"]


@pytest.mark.parametrize(
    ("over", "metric", "first"),
    [
        ("tokens", "val_perplexity", "a"),
        ("seconds", "val_bits_per_byte", "a"),
        ("steps", "train_loss", "a"),
        ("seconds", "val/loss", "a"),
        ("steps", "tokens_per_second", "b"),
    ],
)
def test_every_metric_is_drawn_over_every_axis(gptlab: Command, over: str, metric: str, first: str) -> None:
    write_run("runs/a", falling(2.0), optimizer__lr=0.1)
    run = write_run("runs/b", falling(3.0), optimizer__lr=0.2, pace=100.0)
    content = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text(content.replace(",2048\n", ",4096\n"))
    result = gptlab("compare", "runs", f"over={over}", f"metric={metric}", "to=there.svg")
    assert next(iter(rows_of(result))) == {"a": "optimizer.lr=0.1", "b": "optimizer.lr=0.2"}[first]
    picture = Path("there.svg").read_text()
    assert picture.startswith("<?xml")
    assert not Path("compare.png").exists()


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
    assert "20 more, the darker the better" in picture


def test_a_run_that_flies_away_does_not_flatten_the_others(gptlab: Command) -> None:
    write_run("runs/good", falling(2.0), optimizer__lr=0.001)
    write_run("runs/bad", lambda step: 6.0 + step**3, optimizer__lr=1.0)
    write_run("runs/worse", lambda step: 7.0 * step, optimizer__lr=1.0, seed=2)
    assert gptlab("compare", "runs", "metric=val_perplexity").err == ""
    assert gptlab("compare", "runs", "to=picture.svg").status == 0
    assert "what lies higher is cut off" in Path("picture.svg").read_text()


# -- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "labels"),
    [
        ({"optimizer__lr": 1e-3}, {"optimizer__lr": 3e-4}, ["optimizer.lr=0.001", "optimizer.lr=0.0003"]),
        (
            {"optimizer__lr": 0.0012345678},
            {"optimizer__lr": 0.9999},
            ["optimizer.lr=0.001235", "optimizer.lr=0.9999"],
        ),
        (
            {"optimizer__lr": 0.0012345678},
            {"optimizer__lr": 0.0012345679},
            ["optimizer.lr=0.0012345678", "optimizer.lr=0.0012345679"],
        ),
        (
            {"model__attention": {"_target_": "gptlab.model.attention.plain.PlainAttention"}},
            {},
            ["model/attention=plain", "model/attention=fused"],
        ),
        (
            {"tokenizer": {"_target_": "gptlab.tokenizer.bpe.BPETokenizer", "vocab_size": 512}},
            {},
            ["tokenizer=bpe", "tokenizer=char"],
        ),
        (
            {"schedule": {"_target_": "gptlab.training.schedules.constant", "warmup_steps": 500}},
            {"schedule": {"_target_": "gptlab.training.schedules.cosine", "warmup_steps": 20, "floor": 0.1}},
            ["schedule=constant schedule.warmup_steps=500", "schedule=cosine schedule.warmup_steps=20"],
        ),
        (
            {"context_length": 32, "model__context_length": 32},
            {},
            ["context_length=32", "context_length=64"],
        ),
        ({"data__path": "/a/one.txt"}, {"data__path": "/a/two.txt"}, ["data.path=one.txt", "data.path=two.txt"]),
        (
            {"data__path": "/a/poem.txt"},
            {"data__path": "/b/poem.txt"},
            ["data.path=/a/poem.txt", "data.path=/b/poem.txt"],
        ),
        ({"grad_clip": None}, {"grad_clip": 1.0}, ["grad_clip=null", "grad_clip=1"]),
        ({"optimizer__nesterov": True}, {}, ["optimizer.nesterov=true", "without optimizer.nesterov"]),
        (
            {"callbacks__ema": {"_target_": "mine.Average"}},
            {},
            ["callbacks/ema=Average", "without callbacks/ema"],
        ),
        (
            {"optimizer__lr": 0.1, "model__dropout": 0.5, "batch_size": 8},
            {"optimizer__lr": 0.2},
            ["batch_size=8 dropout=0.5 lr=0.1", "batch_size=16 dropout=0 lr=0.2"],
        ),
    ],
)
def test_a_label_says_what_differs(one: dict, other: dict, labels: list[str]) -> None:
    configs = config_with(**one), config_with(**other)
    runs = [Run(Path(f"/runs/{number}"), dict(leaves(config)), {}) for number, config in enumerate(configs)]
    groups, notes = group(runs)
    assert ([label for label, _ in groups], notes) == (labels, [])


def test_what_changes_no_result_does_not_part_runs(gptlab: Command) -> None:
    write_run("runs/a", seed=1)
    write_run("runs/b", seed=2, callbacks__samples=None, logger={}, resume="/runs/b", model__dropout=0)
    write_run("runs/c", seed=2, callbacks__samples={"_target_": "gptlab.training.callbacks.samples.Samples"})
    result = gptlab("compare", "runs", "to=picture.svg")
    assert [cells[0] for cells in rows_of(result).values()] == ["3"]
    assert "(3 runs)" in Path("picture.svg").read_text(), "a seed is there twice"


def test_runs_that_differ_in_much_are_named_by_their_directories(gptlab: Command) -> None:
    write_run("outputs/small/monday", falling(2.0))
    changes = {f"optimizer__setting{number}": number for number in range(9)}
    write_run("outputs/large/friday", falling(1.0), **changes)
    result = gptlab("compare", "outputs")
    assert list(rows_of(result)) == ["large/friday", "small/monday"]
    assert "the lines are named by directory: they differ in 9 settings (setting0, setting1" in result.out


@pytest.mark.parametrize("content", [None, "model: {", "seed: 1\n"])
def test_without_a_whole_configuration_a_run_is_named_by_its_directory(gptlab: Command, content: str | None) -> None:
    for number in (1, 2, 3):
        write_run(f"runs/{number}", falling(number), optimizer__lr=number / 10)
    if content is None:
        Path("runs/2/config.yaml").unlink()
    else:
        Path("runs/2/config.yaml").write_text(content)
    result = gptlab("compare", "runs")
    assert list(rows_of(result)) == ["optimizer.lr=0.1", "2", "optimizer.lr=0.3"]
    assert "2: its config.yaml is missing or not as the run wrote it" in result.out


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


def test_what_conf_takes_over_from_the_root_is_no_setting_of_its_own() -> None:
    taken_over = {
        f"{path.relative_to(CONF).parts[0]}.{key}": root
        for path in CONF.rglob("*.yaml")
        if path.parent != CONF and path.relative_to(CONF).parts[0] not in ("callbacks", "logger")
        for key, root in re.findall(r"^(\w+): \$\{(\w+)\}$", path.read_text(), flags=re.MULTILINE)
    }
    assert taken_over == FOLLOWING


# -- which runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["my run", "lr=0.1,seed=2", "a, [b] {c}", 'it\'s "one"', "${seed}", "null", "über", "x$y_z"]
)
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
    result = gptlab("compare", "outputs", "outputs/a/1", "newest", "./outputs/../outputs/b")
    assert "2 runs, 2 lines" in result.out


def test_files_of_a_sweep_beside_its_runs_are_passed_over(gptlab: Command) -> None:
    write_run("sweep/0", optimizer__lr=0.1)
    Path("sweep/results.csv").write_text("trial\n")
    assert "1 run, 1 line" in gptlab("compare", "sweep/0", "sweep/results.csv").out


def test_a_run_without_a_value_yet_is_left_out(gptlab: Command) -> None:
    write_run("runs/a", optimizer__lr=0.1)
    write_run("runs/b", steps=5, optimizer__lr=0.2)
    write_run("runs/c", optimizer__lr=0.3).joinpath("metrics.csv").unlink()
    result = gptlab("compare", "runs")
    assert len(rows_of(result)) == 1
    assert "runs/b has no val_loss yet: left out" in result.out
    assert "runs/c has no val_loss yet: left out" in result.out
    assert "2 runs, 2 lines" in gptlab("compare", "runs", "metric=train_loss").out


@pytest.mark.parametrize("tail", ["101,1034", "101,x,y,z,2.0,,,,,\n", '101,"', "\x00\x00\n", "\n\n101,,,,,,,,,"])
def test_what_a_crash_has_left_at_the_end_of_a_file_is_no_value(gptlab: Command, tail: str) -> None:
    with (write_run("runs/a") / "metrics.csv").open("a") as file:
        file.write(tail)
    ((_, end, *cells),) = rows_of(gptlab("compare", "runs", "over=tokens")).values()
    assert float(end) == pytest.approx(TYPICAL(100), abs=1e-4)
    assert cells[-3:-1] == ["100", "102.4k"]


def test_losses_that_are_no_numbers_are_not_drawn(gptlab: Command) -> None:
    write_run("runs/a", lambda step: float("nan") if step > 50 else 3.0 - step / 100)
    (cells,) = rows_of(gptlab("compare", "runs")).values()
    assert cells[1] == "2.5000"


def test_a_real_run_can_be_compared(gptlab: Command, tiny_run: Path) -> None:
    (cells,) = rows_of(gptlab("compare", str(tiny_run))).values()
    loss = json.loads((tiny_run / "summary.json").read_text())["val_loss"]
    assert float(cells[1]) == pytest.approx(loss, abs=1e-4)
    assert cells[-3:-1] == ["6", "1.536k"], "6 steps of 4 sequences of 64 tokens"


# -- mistakes --------------------------------------------------------------------------------------------------------


def mistakes() -> Iterator[tuple[list[str], list[str]]]:
    """Command lines, and words that the sentence must have."""
    yield [], ["runs= is empty", "gptlab compare outputs"]
    yield ["nowhere"], ["nowhere is not there"]
    yield ["no/where=1"], ["no/where=1 is not there"]
    yield ["empty"], ["empty neither is a run directory nor holds any"]
    yield ["runs", "empty"], ["empty neither is"]
    yield ["poem.txt"], ["poem.txt is a file"]
    yield ["runs", "over=step"], ["over=step must be steps or tokens or seconds", "did you mean steps?"]
    yield ["runs", "metric=val_los"], ["metric=val_los is none of", "did you mean val_loss?"]
    yield ["runs", "metric=step"], ["metric=step is none of"]
    yield ["runs", "metric=val_accuracy"], ["metric=val_accuracy is none of"]
    yield ["runs", "ovr=tokens"], ["ovr is not a setting; did you mean over?"]
    yield ["runs", "to=picture.jpg"], ["to=picture.jpg must end in .png"]
    yield ["runs", "to="], ["to= must end in"]
    yield ["runs", "to=empty.png"], ["to=empty.png is a directory"]
    yield ["runs", "to=no/where.png"], ["there is no directory", "no"]
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
