"""The trials of a sweep: their command lines, and the processes or launchers that run them."""

import functools
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, open_dict

from gptlab import build
from gptlab.cli.compose import status_and_line
from gptlab.cli.explain import CONF
from gptlab.cli.free_text import plain_words, quote_free_text
from gptlab.errors import UserError
from gptlab.sweep.definition import SWEEP, Definition, validation_metric
from gptlab.sweep.processes import Stopped, run_trials
from gptlab.sweep.search import Runner
from gptlab.sweep.study import report_metric
from gptlab.sweep.trial import Trial, TrialResult, end_with_the_sweep, recorded_result, result_of, this_trial
from gptlab.sweep.worker_environments import worker_environments
from gptlab.training import devices
from gptlab.training.run_dir import is_rank_zero, lock_run_dir

if TYPE_CHECKING:
    import lightning as L

OF_THE_SWEEP = ("hydra.mode=", "hydra.sweep", "hydra/sweep", "hydra.launcher", "hydra/launcher")
"""Overrides of Hydra's own node that say how the sweep runs, and nothing of a trial."""
OURS, JOBLIB = "basic", "joblib"
"""Choices of hydra/launcher that start trials on this machine. Hydra's default, `basic`, means gptlab's processes."""


def unresolved(node: Any) -> Any:
    """Plain data, interpolations not filled in."""
    return OmegaConf.to_container(node, resolve=False)


def trial_arguments(config: DictConfig, overrides: list[str]) -> list[str]:
    """The arguments of a trial after `gptlab train`: where its configuration lies, then its overrides as typed."""
    sources = {source.provider: str(source.path) for source in config.hydra.runtime.config_sources}
    flags = [f"--config-dir={sources['command-line']}"] if "command-line" in sources else []
    if sources.get("main", str(CONF)) != str(CONF):
        flags.append(f"--config-path={sources['main']}")
    if config.hydra.job.config_name != "train":
        flags.append(f"--config-name={config.hydra.job.config_name}")
    typed = unresolved(config.hydra.overrides.hydra)
    hydra = [argument for argument in typed if not argument.lstrip("+~").startswith(OF_THE_SWEEP)]
    return [*flags, *hydra, *plain_words(overrides)]


def trial_runner(config: DictConfig, make_launcher: Callable[[DictConfig], Launcher]) -> tuple[Runner, int]:
    """What runs trials with the launcher that the configuration names, and how many at the same time.

    Raises UserError if there are more trials at the same time than devices, or if a trial needs several machines.
    """
    name, n_jobs = config.hydra.runtime.choices["hydra/launcher"], config.hydra.sweeper.n_jobs
    n_jobs = max(0, config.hydra.launcher.get("n_jobs") or 0) or n_jobs  # the default of joblib is -1
    if not isinstance(n_jobs, int) or n_jobs < 1:
        raise UserError(f"hydra.sweeper.n_jobs={n_jobs} must be a whole number, at least 1")
    environments: list[dict[str, str]] = [{}] * n_jobs
    if name in (OURS, JOBLIB):
        trainer = build.resolve(config.trainer)
        if trainer["num_nodes"] != 1:
            raise UserError("trainer.num_nodes: trials start on this machine only; use hydra/launcher=submitit_slurm")
        environments = worker_environments(n_jobs, devices.resolve(trainer), devices=trainer["devices"])
    if name == OURS:
        return lambda trials: run_trials(trials, environments), n_jobs
    return lambda trials: _run_by_launcher(config, make_launcher, trials, environments), n_jobs


def _run_by_launcher(
    config: DictConfig,
    make_launcher: Callable[[DictConfig], Launcher],
    trials: Iterator[Trial],
    environments: list[dict[str, str]],
) -> Iterator[tuple[int, TrialResult]]:
    """In batches: a launcher returns when all of its jobs have ended."""
    launcher: Launcher | None = None
    while batch := list(itertools.islice(trials, len(environments))):
        launcher = launcher or make_launcher(_in_directory(config, batch[0].run_dir.parent))
        # a launcher numbers its jobs consecutively
        for _, group in itertools.groupby(enumerate(batch), lambda pair: pair[1].number - pair[0]):
            yield from _launch(launcher, [trial for _, trial in group], environments)


def _launch(
    launcher: Launcher, trials: list[Trial], environments: list[dict[str, str]]
) -> Iterator[tuple[int, TrialResult]]:
    lines = []
    for trial, environment in zip(trials, environments, strict=False):
        overrides = [argument for argument in trial.run_arguments if not argument.startswith("--")]
        variables = [f"++hydra.job.env_set.{name}='{value}'" for name, value in environment.items()]
        lines.append([*variables, *quote_free_text(overrides)])
    try:
        returned = launcher.launch(lines, initial_job_idx=trials[0].number)
    except Exception as error:  # the launcher has lost a job, and has not waited for the others
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        for trial in trials:
            trial.run_dir.mkdir(exist_ok=True)
            with lock_run_dir(trial.run_dir, key="run_dir", timeout=-1):
                result = recorded_result(trial.run_dir) or result_of(trial.run_dir, 1, reason, was_stopped=False)
            yield trial.number, result
        return
    for trial, job in zip(trials, returned, strict=True):
        try:
            result = job.return_value
        except TrialFailed as failure:
            result = TrialResult("failed", str(failure).partition(": ")[2])
        yield trial.number, result
        if result.status == "interrupted":
            raise Stopped(signal.SIGINT)


def _in_directory(config: DictConfig, sweep_dir: Path) -> DictConfig:
    """The configuration for a launcher. Jobs compose theirs again, from its list of overrides."""
    config = config.copy()
    quoted = quote_free_text([f"run_dir={sweep_dir}"])[0].partition("=")[2]
    with open_dict(config):
        config.hydra.sweep.dir = str(sweep_dir)
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted}")
    return config


class TrialFailed(Exception):  # noqa: N818 (Hydra's sweeper prints the name)
    """A trial has failed; the message is the reason. A job of Hydra's fails by an exception."""


def run_launched_trial(train: Callable[[DictConfig], int], cfg: DictConfig) -> TrialResult:
    """One job of a multirun, in a process that a launcher of Hydra's has made, or with its basic sweeper in this one.

    The trial gets a process of its own, because other launchers may run several jobs in one and ranks need a command
    that can be repeated; a cluster's job is such a process already.

    Raises:
        TrialFailed: it has failed.
    """
    hydra = HydraConfig.get()
    overrides = unresolved(hydra.overrides.task)
    run_dir = Path(hydra.sweep.dir, hydra.sweep.subdir).absolute()
    arguments = tuple(trial_arguments(OmegaConf.create({"hydra": hydra}), overrides))
    trial = Trial(hydra.job.num, arguments, run_dir)
    cluster = os.environ.get("SUBMITIT_EXECUTOR")
    n_ranks = devices.resolve(build.resolve(cfg.trainer)).n_ranks
    if cluster is None or (cluster == "local" and n_ranks > 1):
        try:
            ((_, result),) = run_trials(iter([trial]), [{}])
        except Stopped as stop:
            if hydra.runtime.choices["hydra/launcher"] == OURS:
                raise SystemExit(128 + stop.args[0]) from None
            result = TrialResult("interrupted", str(stop))
    else:
        os.environ.update(trial.environment)
        cfg.run_dir = cfg.run_dir or str(run_dir)
        try:
            status, line = train(cfg), ""
        except Exception as error:
            status, line = status_and_line(error, "train", overrides)
        result = result_of(run_dir, status, line, was_stopped=status > 128)
    if result.status == "failed":
        raise TrialFailed(f"trial {trial.number}: {result.reason}")
    return result


def begin_trial() -> None:
    """For a process that trains one run: if it is a trial, let it end with its sweep."""
    if this_trial() is not None and is_rank_zero():
        end_with_the_sweep()


def pruning_callbacks(metric_names: list[str]) -> "list[L.Callback]":
    """The callback that prunes this process's run, if it is a trial of a sweep with a pruner.

    Raises UserError if the sweep's metric is bits per byte and the run, which logs `metric_names`, will not have it.
    """
    trial = this_trial()
    if trial is None or not (trial[0] / SWEEP).exists():  # a job of Hydra's basic sweeper
        return []
    definition = Definition.read(trial[0])
    if definition.metric == "val_bits_per_byte" and "val/bits_per_byte" not in metric_names:
        raise UserError(
            "hydra.sweeper.metric=val_bits_per_byte needs a tokenizer that keeps every byte of the text, "
            "and all of the validation text (trainer.limit_val_batches=1.0)"
        )
    metric = validation_metric(definition.metric)
    if definition.pruner is None or metric is None:
        return []
    from gptlab.training.callbacks.pruning import Pruning

    return [Pruning(metric=metric, report=functools.partial(report_metric, *trial, definition))]
