"""`gptlab fit`: scaling laws of the finished runs of a sweep, and its larger model. Imports no Lightning."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from gptlab import build
from gptlab.checkpoint.run import find_checkpoint, read_checkpoint
from gptlab.cli.compare import read_run, with_directories
from gptlab.cli.compose import run_command
from gptlab.cli.progress import progress_line
from gptlab.cli.report import shortened
from gptlab.comparison.laws import BOTH, LAWS, N_REFITS, Point, described, draw, fit_laws, lines
from gptlab.comparison.runs import find_runs, incomparable
from gptlab.errors import UserError
from gptlab.files import write_json
from gptlab.sweep.definition import Definition
from gptlab.sweep.processes import Stopped, run_trials
from gptlab.sweep.trial import Trial, recorded_result
from gptlab.training.cost import n_non_embedding
from gptlab.training.run_files import read_config, read_summary

log = logging.getLogger("gptlab")

HELD_OUT = "held_out"


@dataclass(frozen=True)
class FitSettings:
    """The settings of fit.yaml."""

    runs: str | None

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("runs= is empty: name the directory of a sweep (gptlab fit outputs/scaling_law/...)")


def main(arguments: list[str]) -> int:
    return run_command(fit, config_name="fit", arguments=list(with_directories(arguments)))


def fit(cfg: DictConfig) -> int:
    """Fit, draw and print."""
    settings = build.settings_of(FitSettings, build.resolve(cfg))
    for line in fit_runs(Path(str(settings.runs)).expanduser().absolute()):
        print(line)
    return 0


def fit_runs(sweep_dir: Path, planned: Point | None = None) -> Iterator[str]:
    """Write scaling.json and scaling.png, with the larger model as it is planned or measured. Yields lines for people.

    Raises UserError if the finished runs are too few, lack a number, or differ in tokenizer or data.
    """
    picture = sweep_dir / "scaling.png"
    finished = [found for found in find_runs([str(sweep_dir)]) if read_summary(found).get("status") == "finished"]
    runs = [read_run(found) for found in finished if found.name != HELD_OUT]
    if not runs:
        raise UserError(f"{shortened(sweep_dir)}: no run in it has finished, so there is nothing to fit")
    for key, values in incomparable(runs).items():
        raise UserError(f"runs that differ in {key} ({' and '.join(values)}) cannot be fitted together")
    points, counter = [_point(run.directory) for run in runs], count(1)
    with progress_line("fitting", len(LAWS) * N_REFITS, unit="fits") as show:
        fits = fit_laws(points, progress=lambda: show(next(counter)))
    has_finished = recorded_result(sweep_dir / HELD_OUT) is not None
    content = described(points, fits, _point(sweep_dir / HELD_OUT) if has_finished else planned)
    write_json(picture.with_suffix(".json"), content)
    draw(points, fits[BOTH].values, content["held_out"], picture)
    yield from lines(content)
    yield f"\n{shortened(picture)}, and scaling.json beside it; all curves: gptlab compare {shortened(sweep_dir)}"


def _point(run_dir: Path) -> Point:
    known = {"run": run_dir.name} | read_summary(run_dir)
    numbers: dict[str, Any] = {field.name: known.get(field.name) for field in fields(Point)}
    for name in (name for name, number in numbers.items() if number is None and name not in ("flops", "entropy_rate")):
        raise UserError(f"{shortened(run_dir)} has no {name} in its summary.json: train it again with this version")
    return Point(**numbers)


def train_held_out(sweep_dir: Path, definition: Definition, config: build.Config) -> int | None:
    """Predict the loss of the larger model, train it unless it has finished, and compare. Failures are logged.

    `config` is that of its run. Returns the signal that stopped the training; None if none did.
    """
    run_dir = sweep_dir / HELD_OUT
    try:
        if recorded_result(run_dir) is None:
            log.info("\n%s", "\n".join(fit_runs(sweep_dir, _planned(config, sweep_dir))))
            log.info("\ntraining the held-out model: %s shows its progress", shortened(run_dir / "train.log"))
            arguments = (*definition.arguments, *(definition.held_out or []))
            trials = iter([Trial(definition.n_planned, arguments, run_dir, resumes=run_dir.exists())])
            ((_, result),) = run_trials(trials, [{}])
            if result.status == "failed":
                raise UserError(f"the held-out model: {result.reason}")
        log.info("\n%s", "\n".join(fit_runs(sweep_dir)))
    except UserError as error:
        log.error("failed: %s", error)
    except Stopped as stop:
        return stop.args[0]
    return None


def _planned(config: build.Config, sweep_dir: Path) -> Point:
    """The sizes of the larger model; its vocabulary is that of the trials. Raises UserError if no checkpoint has it."""
    checkpoint = next(filter(None, map(find_checkpoint, sorted(sweep_dir.glob("[0-9]*")))), None)
    if checkpoint is None:
        raise UserError(f"no run in {shortened(sweep_dir)} has a checkpoint, which tells the size of the vocabulary")
    model = build.meta_model(config, read_checkpoint(checkpoint)["gptlab"]["vocab_size"])
    n_tokens = config["max_tokens"] or config["max_steps"] * config["batch_size"] * config["context_length"]
    own, summary = read_config(checkpoint.parents[1]) or {}, read_summary(checkpoint.parents[1])
    if config["max_tokens"] and own.get("max_tokens"):  # not every input token has a target that counts
        n_tokens *= summary["tokens"] / own["max_tokens"]
    return Point(HELD_OUT, sum(p.numel() for p in model.parameters()), n_non_embedding(model), round(n_tokens))
