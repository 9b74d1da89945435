"""The trials of a sweep: their command lines, and the processes or launchers that run them."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, open_dict

from gptlab import build
from gptlab.cli.compose import status_and_line
from gptlab.cli.explain import CONF
from gptlab.cli.free_text import plain_words, quote_free_text
from gptlab.errors import UserError
from gptlab.sweep.definition import Definition
from gptlab.sweep.lanes import lanes
from gptlab.sweep.processes import run_processes
from gptlab.sweep.search import Runner
from gptlab.sweep.study import Trial
from gptlab.sweep.trial import End, Job, end_of, has_saved, recorded_end
from gptlab.training import devices
from gptlab.training.requeue import job_number

OURS = "hydra_plugins.gptlab.launcher.ProcessLauncher"


def unresolved(overrides: Any) -> list[str]:
    """What stands on a command line, as Hydra keeps it; a look into its list would fill in the interpolations."""
    return cast(list[str], OmegaConf.to_container(overrides, resolve=False))


def child_words(config: DictConfig, overrides: list[str]) -> list[str]:
    """The command line of a trial, behind `gptlab train`: its overrides as typed, and where it finds configurations.

    Args:
        config: the sweep's, with its `hydra` node.
        overrides: the trial's, in Hydra's grammar.
    """
    sources = {source.provider: str(source.path) for source in config.hydra.runtime.config_sources}
    flags = [f"--config-dir={sources['command-line']}"] if "command-line" in sources else []
    if sources.get("main", str(CONF)) != str(CONF):
        flags.append(f"--config-path={sources['main']}")
    if config.hydra.job.config_name != "train":
        flags.append(f"--config-name={config.hydra.job.config_name}")
    paths = [word for word in unresolved(config.hydra.overrides.hydra) if word.startswith("hydra.searchpath=")]
    return [*flags, *paths, *plain_words(overrides)]


class Trials:
    """Runs trials by the launcher that the configuration names.

    Args:
        config: the sweep's, with its `hydra` node.
        definition: what the sweep is.
        fixed: the part of the command line that all trials share, in Hydra's grammar.
        make_launcher: makes a launcher from a configuration.

    Raises:
        UserError: where more are to run at once than there are devices.
    """

    def __init__(
        self,
        config: DictConfig,
        definition: Definition,
        fixed: list[str],
        make_launcher: Callable[[DictConfig], Launcher],
    ) -> None:
        self._config = config
        self._definition = definition
        self._fixed = fixed
        self._make_launcher = make_launcher
        self._overrides = {entry.key: entry.override for entry in definition.parameters}
        self._is_ours = config.hydra.launcher._target_ == OURS
        self.n_jobs: int = config.hydra.launcher.n_jobs if self._is_ours else config.hydra.sweeper.n_jobs
        if self._is_ours:
            trainer = build.resolve(config.trainer)
            if trainer["num_nodes"] != 1:
                raise UserError(
                    f"trainer.num_nodes={trainer['num_nodes']}: each trial is started on this machine alone; a "
                    f"cluster's launcher starts it on several (hydra/launcher=submitit_slurm)"
                )
            self._lanes = lanes(self.n_jobs, devices.resolve(trainer), devices=trainer["devices"])

    def in_directory(self, sweep_dir: Path) -> Runner:
        """What runs trials whose runs lie in this directory."""
        return partial(self._by_processes if self._is_ours else self._by_launcher, sweep_dir)

    def _by_processes(self, sweep_dir: Path, trials: Iterator[Trial]) -> Iterator[tuple[int, End]]:
        jobs = (
            Job(trial.number, (*self._definition.words, *self._words(trial)), sweep_dir / str(trial.number))
            for trial in trials
        )
        for job, end in run_processes(jobs, self._lanes):
            yield job.number, end

    def _by_launcher(self, sweep_dir: Path, trials: Iterator[Trial]) -> Iterator[tuple[int, End]]:
        """In batches, for a launcher returns when all of its jobs have ended."""
        launcher = self._make_launcher(_in_directory(self._config, sweep_dir))
        for batch in _batches(trials, self.n_jobs):
            known = {trial.number: recorded_end(sweep_dir / str(trial.number)) for trial in batch}
            lines = []
            for trial in batch:
                run_dir = sweep_dir / str(trial.number)
                goes_on = quote_free_text([f"resume={run_dir}"])
                lines.append(goes_on if has_saved(run_dir) else [*self._fixed, *quote_free_text(self._words(trial))])
            try:
                returned = launcher.launch(lines, initial_job_idx=batch[0].number)
                known |= {trial.number: job.return_value for trial, job in zip(batch, returned, strict=True)}
            except Exception as error:  # of one job, for which the launcher forgets the others
                lost = End("failed", " ".join(str(error).split()) or type(error).__name__)
                known |= {trial.number: recorded_end(sweep_dir / str(trial.number)) or lost for trial in batch}
            for number, end in known.items():
                yield number, end or End("failed", "its launcher returned without a result")

    def _words(self, trial: Trial) -> list[str]:
        return [self._overrides[key](value) for key, value in trial.values.items()]


def _batches(trials: Iterator[Trial], size: int) -> Iterator[list[Trial]]:
    """A launcher numbers its jobs one after the other, and so must be those of a batch."""
    batch: list[Trial] = []
    for trial in trials:
        if batch and (len(batch) == size or trial.number != batch[-1].number + 1):
            yield batch
            batch = []
        batch.append(trial)
    if batch:
        yield batch


def _in_directory(config: DictConfig, sweep_dir: Path) -> DictConfig:
    """The configuration for a launcher; jobs are composed anew, from its list of overrides."""
    config = config.copy()
    with open_dict(config):
        config.hydra.sweep.dir, config.hydra.sweep.subdir = str(sweep_dir), "${hydra.job.num}"
        quoted = quote_free_text([f"run_dir={sweep_dir}"])[0].partition("=")[2]
        config.hydra.overrides.hydra += [f"hydra.sweep.dir={quoted}", "hydra.sweep.subdir=${hydra.job.num}"]
    return config


def trial(train: Callable[[DictConfig], int], cfg: DictConfig) -> End:
    """One job of a sweep, in a process that another launcher has made.

    A cluster's job is a process of its own, which goes on with its run by itself when it is started again. Elsewhere,
    as under joblib, a process may be used for several jobs: the trial gets one of its own.
    """
    hydra = HydraConfig.get()
    overrides = unresolved(hydra.overrides.task)
    run_dir = Path(hydra.sweep.dir, hydra.sweep.subdir).absolute()
    job = Job(hydra.job.num, tuple(child_words(OmegaConf.create({"hydra": hydra}), overrides)), run_dir)
    if job_number() is None:
        ((_, end),) = run_processes(iter([job]), [{}])
        return end
    os.environ.update(job.environment)
    try:
        status, line = train(cfg), None
    except Exception as error:
        status, line = status_and_line(error, "train", overrides)
    return end_of(run_dir, status, line or "", was_stopped=False)
