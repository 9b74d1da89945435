"""`gptlab compare`: the curves of runs in one picture, and their results in a table. Imports no Lightning."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from gptlab import build
from gptlab.arguments import nearest
from gptlab.cli.compose import run_command
from gptlab.cli.floors import floors, orders_of
from gptlab.cli.report import counted, shortened
from gptlab.comparison.curves import BITS_PER_BYTE, Line, draw, make_lines, smoothing, table
from gptlab.comparison.runs import Run, common_parent, differences, find_runs, group
from gptlab.comparison.seeds import verdict
from gptlab.errors import UserError
from gptlab.training.metrics import COLUMNS, ENTROPY_RATE, METRICS, read_metrics
from gptlab.training.run_files import read_config, read_summary

OVER = ("steps", "tokens", "seconds")
PICTURES = (".png", ".pdf", ".svg")
LOSS = "val/loss"
PER_TOKEN = ("train/loss", LOSS, "val/perplexity")
TAKES_A_VALUE = {"--config-dir", "-cd", "--package", "-p", "--cfg", "-c"}
"""Flags of Hydra's that are followed by a word of their own."""


@dataclass(frozen=True)
class CompareSettings:
    """The settings of compare.yaml."""

    runs: str | list[str]
    over: str
    metric: str | None
    to: str | None
    ngram: str | None

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("runs= is empty: name run directories, or directories with runs (gptlab compare outputs)")
        if self.over not in OVER:
            raise ValueError(f"over={self.over} must be {' or '.join(OVER)}{nearest(self.over, OVER)}")
        if self.to is not None and not self.to.lower().endswith(PICTURES):
            raise ValueError(f"to={self.to} must end in {' or '.join(PICTURES)}: it names the picture")
        if self.ngram is not None:
            orders_of(self.ngram)


def main(arguments: list[str]) -> int:
    return run_command(compare, config_name="compare", arguments=list(with_directories(arguments)))


def compare(cfg: DictConfig) -> int:
    """Find the runs, read them, draw, and print."""
    for line in draw_runs(build.settings_of(CompareSettings, build.resolve(cfg))):
        print(line)
    return 0


def draw_runs(settings: CompareSettings) -> Iterator[str]:
    """Draw the picture. Yields the lines of the table. Raises UserError if there is nothing to compare."""
    names = [settings.runs] if isinstance(settings.runs, str) else settings.runs
    runs = [read_run(directory) for directory in find_runs(names)]
    picture = common_parent(runs) / "compare.png" if settings.to is None else Path(settings.to).expanduser().absolute()
    different = differences(runs)
    column = _column(settings.metric, runs, different)
    metric = column.replace("/", "_")
    measured = [run for run in runs if run.has(column)]
    if not measured:
        raise UserError(f"none of the {len(runs)} runs has a {metric} yet: there is nothing to draw")
    groups, notes = group(measured)
    window = smoothing(measured, column)
    lines = make_lines(groups, column, over=settings.over, window=window)
    caveat = _caveat(column, different)
    baselines, rates = _floors(settings.ngram, measured, column, different), _entropy_rates(lines, column)
    try:
        draw(lines, picture, column=column, over=settings.over, window=window, caveat=caveat, floors=baselines | rates)
    except OSError as error:
        raise UserError(f"{picture} cannot be written ({error.strerror}): name the picture with to=") from None

    without = [f"{shortened(run.directory)} has no {metric} yet: left out" for run in runs if run not in measured]
    yield from [*without, *notes, *_cut_short(lines), *([caveat] if caveat else [])]
    yield f"{counted(len(measured), 'run')}, {counted(len(lines), 'line')}, sorted by {metric}\n"
    yield from (f"  {row}" for row in table(lines, column, metric=metric))
    yield from (f"  {name}: {value:.4f} by counting alone" for name, value in baselines.items())
    yield from (f"  {name}: {value:.4f} nats per token" for name, value in rates.items())
    yield from () if caveat else [f"\n{sentence}" for sentence in verdict(lines)]
    yield f"\n{shortened(picture)}: {metric} over {settings.over}"


def _floors(ngram: str | None, runs: list[Run], column: str, different: str) -> dict[str, float]:
    """The losses of n-gram models on the text of the runs. Raises UserError if the runs have no text in common."""
    if ngram is None:
        return {}
    if column != LOSS or different:
        why = f"the {different} of these runs differ" if different else "another metric is compared"
        raise UserError(f"ngram={ngram} is a floor of val_loss on one text with one tokenizer: {why}")
    return floors(runs[0].directory, orders_of(ngram))


def _entropy_rates(lines: list[Line], column: str) -> dict[str, float]:
    """The distinct entropy rates of the data in nats per token, by name; empty if none is known."""
    known = [(round(line.at_end(ENTROPY_RATE), 4), line.label) for line in lines if column in (LOSS, "train/loss")]
    labels = {rate: label for rate, label in reversed(known) if np.isfinite(rate)}
    return {"entropy rate" if len(labels) == 1 else f"entropy rate, {label}": rate for rate, label in labels.items()}


def with_directories(arguments: list[str]) -> Iterator[str]:
    """`a b over=tokens` as `runs=a runs=b over=tokens`.

    A directory with a `=` in its name, as in sweeps, is recognized if it exists or has a slash before the `=`.
    """
    before = ""
    for word in arguments:
        key, equals, _ = word.partition("=")
        is_directory = not equals or "/" in key or Path(word).is_dir()
        is_directory = is_directory and not word.startswith("-") and before not in TAKES_A_VALUE
        yield f"runs={word}" if is_directory else word
        before = word


def read_run(directory: Path) -> Run:
    config = read_config(directory)
    metrics = {name: np.array(values) for name, values in read_metrics(directory / METRICS).items()}
    summary = read_summary(directory)
    is_causal, unit = summary.get("causal", True), summary.get("unit", "token")
    return Run(directory, dict(build.flatten(config)) if config is not None else None, metrics, is_causal, unit)


def _column(metric: str | None, runs: list[Run], different: str) -> str:
    """The column of metrics.csv. Raises UserError if a metric names none.

    By default it is the validation loss; bits per byte if losses per token do not compare and all runs have them.
    """
    if metric is None:
        has_bits = all(run.has(BITS_PER_BYTE) for run in runs if run.has(LOSS)) and any(run.has(LOSS) for run in runs)
        return BITS_PER_BYTE if different and has_bits else LOSS
    columns = dict.fromkeys([*COLUMNS, *(name for run in runs for name in run.metrics)])
    by_name = {name.replace("/", "_"): name for name in columns if name not in ("step", *OVER)}
    wanted = metric.replace("/", "_")
    if wanted not in by_name:
        raise UserError(f"metric={metric} is not one of {', '.join(by_name)}{nearest(wanted, by_name)}")
    return by_name[wanted]


def _caveat(column: str, different: str) -> str:
    """A warning if this metric of the runs does not compare; empty otherwise."""
    if column in PER_TOKEN and different:
        return f"the {different} differ: values per token do not compare, and their order means nothing"
    if column == BITS_PER_BYTE and "texts" in different:
        return "the texts differ: bits per byte of different texts compare only roughly"
    return ""


def _cut_short(lines: list[Line]) -> Iterator[str]:
    """A note for each line whose runs have different steps, for instance because one was interrupted."""
    for line in lines:
        if not line.has_all:
            ends = sorted(int(its.steps[-1]) for its in line.members)
            yield (
                f"{line.label}: its {len(ends)} runs end at steps {ends[0]:,} to {ends[-1]:,}; "
                f"the mean is over the {len(line.steps):,} steps that all have, thin lines show each"
            )
