"""`gptlab compare`, end to end: runs of any kind in one picture and one table."""

import functools
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gptlab as package
from conftest import Result
from gptlab.build import flatten
from gptlab.comparison.runs import Run, group
from gptlab.comparison.seeds import interval
from gptlab.training.metrics import COLUMNS, ENTROPY_RATE
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
    entropy_rate: float | None = None,
    **changes: Any,
) -> Path:
    """A run directory as training leaves it; `pace` is seconds a step, `bits` per byte are the loss by default."""
    run_dir = Path(directory)
    run_dir.mkdir(parents=True)
    write_config(run_dir, nested(settings_with(run_dir=str(run_dir.absolute()), **changes)))
    rows = [",".join(COLUMNS if entropy_rate is None else [*COLUMNS, ENTROPY_RATE])]
    for step in range(1, steps + 1):
        loss = curve(step)
        per_byte = f"{loss:.6g}" if bits is None else bits
        val = f"{loss:.6g},{np.exp(min(loss, 700.0)):.6g},{per_byte}" if step % every == 0 else ",,"
        known = "" if entropy_rate is None else f",{entropy_rate}" if step % every == 0 else ","
        rows.append(f"{step},{step * 1024},{step * pace:.6g},{loss:.6g},{val},0.001,1.5,2048,{known}")
    (run_dir / "metrics.csv").write_text("\n".join(rows) + "\n")
    return run_dir


def rows_of(result: Result) -> dict[str, list[str]]:
    """The table's cells by label: runs, tokenizer, data, metric, best, at step, bits/byte, steps, tokens, seconds."""
    assert result.status == 0, result.err
    lines = result.out.splitlines()
    begin = next(number for number, line in enumerate(lines) if " runs " in line and " tokenizer " in line)
    cells = [re.split(r"  +", line.strip()) for line in lines[begin + 1 : lines.index("", begin)]]
    return {label: rest for label, *rest in cells}


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


def test_the_interval_holds_the_true_mean_in_19_of_20_draws() -> None:
    draws = np.random.default_rng(1).normal(0.3, 2.0, size=(5000, 4))
    holds = [low < 0.3 < high for low, high in map(interval, draws)]
    assert np.mean(holds) == pytest.approx(0.95, abs=0.01), "three standard errors"


def test_the_two_best_of_five_equal_settings_are_rarely_called_different() -> None:
    draws = np.random.default_rng(3).normal(size=(4000, 5, 3))  # (draws, settings, seeds)
    ranked = np.take_along_axis(draws, draws.mean(2).argsort(axis=1)[..., None], axis=1)
    claims = [interval(second - best)[0] > 0 for best, second in ranked[:, :2]]
    assert np.mean(claims) == pytest.approx(0.02, abs=0.007), "three standard errors"


def test_the_interval_is_that_of_a_paired_t_test() -> None:
    from scipy import stats

    a, b = np.random.default_rng(2).normal(size=(2, 5))
    assert interval(a - b) == pytest.approx(tuple(stats.ttest_rel(a, b).confidence_interval()))


OFFSETS = {1: -0.5, 2: 0.3, 3: 0.1, 4: 0.6}
"""What a seed adds to the loss of every setting."""


def write_two_settings(seeds: list[int], offsets: list[float], *, gap: float) -> None:
    """Runs of two learning rates with the seeds 1 to 4; the second has these `seeds`, in the order of `offsets`."""
    for seed, offset in OFFSETS.items():
        write_run(f"runs/a{seed}", falling(2.0 + offset), seed=seed, optimizer__lr=0.1)
    for seed, offset in zip(seeds, offsets, strict=True):
        write_run(f"runs/b{seed}", falling(2.0 + gap + offset + seed / 100), seed=seed, optimizer__lr=0.2)


def test_an_effect_that_seeds_share_cancels_because_runs_are_paired_by_seed(gptlab: Command) -> None:
    write_two_settings([1, 2, 3, 4], [*OFFSETS.values()], gap=0.1)
    differences = 0.1 + np.arange(1, 5) / 100
    half = 3.18245 * differences.std(ddof=1) / 2  # t of 3 degrees of freedom
    low, high = differences.mean() - half, differences.mean() + half
    found = f"0.1250 lower than optimizer.lr=0.2 (95 % interval {low:.4f} to {high:.4f}, 4 seeds in common)"
    assert f"\n\noptimizer.lr=0.1 is {found}: more than noise\n\n" in gptlab("compare", "runs").out


def test_the_same_losses_with_other_seeds_are_no_more_than_noise(gptlab: Command) -> None:
    write_two_settings([1, 2, 3, 4], [*OFFSETS.values()][::-1], gap=0.1)
    (sentence,) = [line for line in gptlab("compare", "runs").out.splitlines() if "interval" in line]
    assert sentence.startswith("optimizer.lr=0.1 is 0.1250 lower than optimizer.lr=0.2 (95 % interval -")
    assert sentence.endswith("4 seeds in common): no more than noise")


def test_only_seeds_in_common_are_paired_and_a_repeated_run_counts_once(gptlab: Command) -> None:
    write_two_settings([2, 3, 7], [0.3, 0.1, 5.0], gap=0.1)
    write_run("runs/again", falling(2.3 + 0.1 + 0.02), seed=2, optimizer__lr=0.2)
    sentence = next(line for line in gptlab("compare", "runs").out.splitlines() if "interval" in line)
    assert "is 0.1250 lower" in sentence
    assert "2 seeds in common" in sentence


def test_where_larger_is_better_the_best_is_higher(gptlab: Command) -> None:
    for seed in (1, 2, 3):
        for lr, speed in ((0.1, 2000), (0.2, 3000)):
            metrics = write_run(f"runs/{lr}/{seed}", seed=seed, optimizer__lr=lr) / "metrics.csv"
            metrics.write_text(metrics.read_text().replace(",2048,\n", f",{speed + seed + lr},\n"))
    out = gptlab("compare", "runs", "metric=tokens_per_second").out
    assert "optimizer.lr=0.2 is 1,000.1 higher than optimizer.lr=0.1 (95 % interval 1,000.1 to 1,000.1, 3" in out


def test_of_many_settings_the_two_best_are_compared_and_the_ends_are_told(gptlab: Command) -> None:
    for lr, end in ((0.1, 4.0), (0.2, 2.0), (0.3, 3.0)):
        for seed in (1, 2):
            write_run(f"runs/{lr}/{seed}", falling(end), seed=seed, optimizer__lr=lr, steps=int(200 * lr))
    out = gptlab("compare", "runs").out
    assert "optimizer.lr=0.2 is " in out
    assert " lower than optimizer.lr=0.3 (" in out
    assert "2 seeds in common, at steps 40 and 60): more than noise" in out
    assert out.count("noise") == 1


ADVICE = "a difference may be noise; train each setting with several (-m seed=1,2,3)"


def test_one_seed_is_warned_of_once(gptlab: Command) -> None:
    for lr, seeds in ((0.1, [1, 2]), (0.2, [1, 2]), (0.3, [1]), (0.4, [1])):
        for seed in seeds:
            write_run(f"runs/{lr}/{seed}", falling(2 + lr + seed / 10), seed=seed, optimizer__lr=lr)
    out = gptlab("compare", "runs").out
    assert "optimizer.lr=0.1 is 0.1000 lower than optimizer.lr=0.2" in out
    assert f"\none seed only (2 of 4 lines): {ADVICE}\n" in out
    out = gptlab("compare", "runs/0.1/1", "runs/0.3", "runs/0.4").out
    assert "interval" not in out
    assert out.count(ADVICE) == 1


def test_different_seeds_are_no_pairs(gptlab: Command) -> None:
    for seed, lr in ((1, 0.1), (2, 0.1), (2, 0.2), (3, 0.2)):
        write_run(f"runs/{seed}-{lr}", seed=seed, optimizer__lr=lr)
    out = gptlab("compare", "runs").out
    assert "interval" not in out
    assert f"\nfewer than two seeds in common (the two best lines): {ADVICE}\n" in out


def test_nothing_is_claimed_of_one_line_of_models_that_see_ahead_and_of_values_that_do_not_compare(
    gptlab: Command,
) -> None:
    for seed in (1, 2):
        for lr in (0.1, 0.2):
            write_run(f"runs/{lr}/{seed}", falling(lr), seed=seed, optimizer__lr=lr)
        (Path(f"runs/0.2/{seed}") / "summary.json").write_text('{"causal": false}')
        write_run(f"other/{seed}", falling(3.0), seed=seed, tokenizer=BPE, optimizer__lr=0.1)
    for words in (["runs/0.1"], ["runs"], ["runs/0.1", "other", "metric=val_loss"]):
        assert "noise" not in gptlab("compare", *words).out, words
    assert "more than noise" in gptlab("compare", "runs/0.1", "other").out, "bits per byte compare"


def test_a_known_entropy_rate_is_a_floor_of_losses_per_token(gptlab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr("gptlab.comparison.curves.save", lambda figure, picture: figures.append(figure))
    for lr in (0.1, 0.2):
        for seed in (1, 2, 3):
            write_run(f"runs/{lr}/{seed}", falling(2 + lr), seed=seed, optimizer__lr=lr, entropy_rate=1.0832)
    for metric in ("val_loss", "train_loss"):
        assert "\n  entropy rate: 1.0832 nats per token\n" in gptlab("compare", "runs", f"metric={metric}").out
        axes = figures[-1].axes[0]
        assert [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [1.0832]
        assert axes.get_ylim()[0] < 1.0832
        assert [text.get_text() for text in axes.texts][-1] == "entropy rate"
    assert "entropy rate" not in gptlab("compare", "runs", "metric=val_perplexity").out


def test_different_entropy_rates_are_named_by_their_lines(gptlab: Command) -> None:
    for order, rate in ((1, 1.5), (2, 1.25)):
        write_run(f"runs/{order}", falling(rate), data__order=order, entropy_rate=rate)
    write_run("runs/unknown", data__order=3)
    out = gptlab("compare", "runs", "metric=val_loss", "to=picture.svg").out
    for order, rate in ((1, 1.5), (2, 1.25)):
        assert f"entropy rate, data.order={order}: {rate:.4f} nats per token" in out
        assert f"entropy rate, data.order={order}" in Path("picture.svg").read_text()


BPE = {"_target_": "gptlab.tokenizer.bpe.BPETokenizer", "vocab_size": 512}


def test_runs_of_different_tokenizers_are_compared_by_bits_per_byte(gptlab: Command) -> None:
    write_run("runs/char", falling(2.0))
    write_run("runs/bpe", falling(4.0), bits="1.5", tokenizer=BPE)
    result = gptlab("compare", "runs")
    assert [cells[1] for cells in rows_of(result).values()] == ["bpe 512", "char"], "best first"
    assert "sorted by val_bits_per_byte" in result.out
    assert "order means nothing" not in result.out


@pytest.mark.parametrize("bits", ["1.5", ""])
def test_losses_per_token_of_different_tokenizers_have_a_warning(gptlab: Command, bits: str) -> None:
    write_run("runs/char", falling(2.0))
    write_run("runs/bpe", falling(4.0), bits=bits, tokenizer=BPE)
    result = gptlab("compare", "runs", "to=picture.svg", *(["metric=val_loss"] if bits else []))
    assert list(rows_of(result)) == ["tokenizer=char", "tokenizer=bpe"]
    assert [cells[6] for cells in rows_of(result).values()] == ["2.0269", "1.5000" if bits else "-"]
    caveat = "the tokenizers differ: values per token do not compare, and their order means nothing"
    assert caveat in result.out
    assert caveat in Path("picture.svg").read_text()


def test_different_texts_have_a_warning(gptlab: Command) -> None:
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


def test_a_model_that_is_not_causal_is_marked_and_does_not_decide_the_height(
    gptlab: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr("gptlab.comparison.curves.save", lambda figure, picture: figures.append(figure))
    write_run("runs/a", falling(2.0), optimizer__lr=0.1)
    write_run("runs/b", lambda step: 0.01, optimizer__lr=0.2)
    (Path("runs/b") / "summary.json").write_text('{"causal": false}')
    out = gptlab("compare", "runs").out
    assert "optimizer.lr=0.2 (not causal)" in out
    assert "optimizer.lr=0.1 (not causal)" not in out
    axes = figures[0].axes[0]
    styles = {line.get_label().split()[1].rstrip(","): line.get_linestyle() for line in axes.lines}
    assert styles == {"optimizer.lr=0.2": ":", "optimizer.lr=0.1": "-"}
    assert axes.get_ylim()[0] > 0.5


@pytest.mark.parametrize(
    ("over", "metric", "first"),
    [
        ("tokens", "val_perplexity", "0.1"),
        ("seconds", "train_loss", "0.1"),
        ("steps", "tokens_per_second", "0.2"),
    ],
)
def test_every_metric_is_drawn_over_every_axis(gptlab: Command, over: str, metric: str, first: str) -> None:
    write_run("runs/a", falling(2.0), optimizer__lr=0.1)
    metrics = write_run("runs/b", falling(3.0), optimizer__lr=0.2, pace=100.0) / "metrics.csv"
    metrics.write_text(metrics.read_text().replace(",2048,\n", ",4096,\n"))
    result = gptlab("compare", "runs", f"over={over}", f"metric={metric}", "to=there.svg")
    assert next(iter(rows_of(result))) == f"optimizer.lr={first}"
    assert Path("there.svg").read_text().startswith("<?xml")
    assert not list(Path().rglob("compare.png"))


def test_many_lines_are_drawn_and_the_best_ten_are_named(gptlab: Command) -> None:
    for number in range(14):
        write_run(f"sweep/{number}", falling(2.0 + number / 10), steps=20, optimizer__lr=(number + 1) / 1000)
    result = gptlab("compare", "sweep", "to=many.svg")
    assert list(rows_of(result)) == [f"optimizer.lr={(number + 1) / 1000:g}" for number in range(14)]
    picture = Path("many.svg").read_text()
    assert re.findall(r"optimizer\.lr=(\S+) -->", picture) == [f"{number / 1000:g}" for number in range(1, 11)]
    assert "4 more" in picture


def test_a_run_that_flies_away_does_not_flatten_the_others(gptlab: Command) -> None:
    write_run("runs/good", falling(2.0), optimizer__lr=0.001)
    write_run("runs/bad", lambda step: 6.0 + step**3, optimizer__lr=1.0)
    assert gptlab("compare", "runs", "metric=val_perplexity").err == ""
    assert gptlab("compare", "runs", "to=picture.svg").status == 0
    assert "higher values are cut off" in Path("picture.svg").read_text()


LABELS: dict[str, tuple[dict, dict]] = {
    "optimizer.lr=0.001235 | optimizer.lr=0.9999": ({"optimizer__lr": 0.0012345678}, {"optimizer__lr": 0.9999}),
    "schedule=constant schedule.warmup_steps=500 | schedule=cosine schedule.warmup_steps=20": (
        {"schedule": {"_target_": "gptlab.training.schedules.constant", "warmup_steps": 500}},
        {"schedule": {"_target_": "gptlab.training.schedules.cosine", "warmup_steps": 20, "floor": 0.1}},
    ),
    "context_length=32 | context_length=64": ({"context_length": 32, "model__context_length": 32}, {}),
    "optimizer.nesterov=true | ~optimizer.nesterov": ({"optimizer__nesterov": True}, {}),
    "callbacks.ema._target_=mine.Average | ~callbacks.ema": ({"callbacks__ema": {"_target_": "mine.Average"}}, {}),
}


@pytest.mark.parametrize(("labels", "changes"), LABELS.items(), ids=LABELS)
def test_a_label_is_the_overrides_that_differ(labels: str, changes: tuple[dict, dict]) -> None:
    runs = [Run(Path(f"/runs/{number}"), settings_with(**change), {}) for number, change in enumerate(changes)]
    groups, notes = group(runs)
    assert (" | ".join(label for label, _ in groups), notes) == (labels, [])


@pytest.mark.parametrize(
    "changes",
    [
        ["optimizer.lr=0.0003", "grad_clip=null", "model/attention=plain", "optimizer.betas=[0.8,0.9]"],
        ["schedule=constant", "tokenizer=char", "data.path=my own.txt"],
    ],
)
def test_labels_can_be_pasted(workplace: Path, changes: list[str]) -> None:
    (workplace / "poem.txt").rename("my own.txt")
    configs = [package.compose([]), package.compose(changes)]
    groups, _ = group([Run(Path("/runs"), dict(flatten(config)), {}) for config in configs])
    for config, (label, _) in zip(configs, groups, strict=True):
        assert package.compose(shlex.split(label)) == config, label


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


def test_without_a_whole_configuration_a_run_is_named_by_its_directory(gptlab: Command) -> None:
    for number in (1, 2, 3):
        write_run(f"runs/{number}", falling(number), optimizer__lr=number / 10)
    Path("runs/2/config.yaml").write_text("seed: 1\n")
    result = gptlab("compare", "runs")
    assert list(rows_of(result)) == ["optimizer.lr=0.1", "2", "optimizer.lr=0.3"]
    assert "2: its config.yaml is missing or damaged" in result.out


VALUES = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(0, 1) | st.text(max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["a", "b.c", "b.d", "b._target_", "seed", "e.c"]), VALUES), min_size=1))
def test_different_settings_are_different_lines_with_different_labels(configs: list[dict[str, Any]]) -> None:
    runs = [Run(Path(f"/runs/{number}"), config, {}) for number, config in enumerate(configs)]
    groups, _ = group(runs)
    assert len({label for label, _ in groups}) == len(groups)
    assert sorted(id(run) for _, members in groups for run in members) == sorted(map(id, runs))


def test_a_directory_may_have_any_name_and_stand_anywhere(gptlab: Command) -> None:
    names = ("lr=0.1,seed=2", "it's ${seed}, über [x]", "runs/3")
    for number, name in enumerate(names):
        write_run(name, optimizer__lr=number / 10)
    result = gptlab("compare", names[0], "over=tokens", f"runs={names[2]}", "to=here.png", names[1], f"{names[0]}/")
    assert len(rows_of(result)) == 3
    assert "here.png: val_loss over tokens" in result.out


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


def test_a_real_run_can_be_compared(gptlab: Command, tiny_run: Path) -> None:
    (cells,) = rows_of(gptlab("compare", str(tiny_run))).values()
    loss = json.loads((tiny_run / "summary.json").read_text())["val_loss"]
    assert float(cells[3]) == pytest.approx(loss, abs=1e-4)
    assert cells[-3:-1] == ["6", "1.536k"], "6 steps of 4 sequences of 64 tokens"


def mistakes() -> Iterator[tuple[list[str], list[str]]]:
    """Command lines, and words that the sentence must have."""
    yield [], ["runs= is empty", "gptlab compare outputs"]
    yield ["nowhere"], ["nowhere does not exist"]
    yield ["empty"], ["empty neither is a run directory nor holds any"]
    yield ["poem.txt"], ["poem.txt is a file"]
    yield ["runs", "over=step"], ["over=step must be steps or tokens or seconds", "did you mean steps?"]
    yield ["runs", "metric=val_los"], ["metric=val_los is not one of", "did you mean val_loss?"]
    yield ["runs", "ovr=tokens"], ["ovr is not a setting; did you mean over?"]
    yield ["runs", "to=picture.jpg"], ["to=picture.jpg must end in .png"]
    yield ["runs", "to=empty.png"], ["empty.png cannot be written", "to="]
    yield ["young"], ["none of the 1 runs has a val_loss yet"]


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
