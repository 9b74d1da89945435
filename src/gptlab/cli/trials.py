"""The trials of a sweep: their command lines, and the processes or launchers that run them."""

import itertools
import os
import signal
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
from gptlab.sweep.processes import Stopped, run_processes
from gptlab.sweep.search import Runner
from gptlab.sweep.study import Trial
from gptlab.sweep.trial import End, Job, end_of, has_saved, recorded_end
from gptlab.training import devices
from gptlab.training.run_dir import held

OF_THE_SWEEP = ("hydra.mode=", "hydra.sweep", "hydra/sweep", "hydra.launcher", "hydra/launcher")
"""Overrides of Hydra's own node that say how the sweep is run, and nothing of a trial."""
OURS = "hydra_plugins.gptlab.launcher.ProcessLauncher"
JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
"""The other launcher that runs several at once on this machine."""


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
    hydra = [
        word for word in unresolved(config.hydra.overrides.hydra) if not word.lstrip("+~").startswith(OF_THE_SWEEP)
    ]
    return [*flags, *hydra, *plain_words(overrides)]


def shares(config: DictConfig, n_jobs: int) -> list[dict[str, str]]:
    """What each of the trials that run at once on this machine has of it, as environments.

    Raises:
        UserError: where there are more of them than devices, and where one trial is for several machines.
    """
    trainer = build.resolve(config.trainer)
    if trainer["num_nodes"] != 1:
        raise UserError(
            f"trainer.num_nodes={trainer['num_nodes']}: each trial is started on this machine alone; a "
            f"cluster's launcher starts it on several (hydra/launcher=submitit_slurm)"
        )
    return lanes(n_jobs, devices.resolve(trainer), devices=trainer["devices"])


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
        launcher = config.hydra.launcher
        self._is_ours = launcher._target_ == OURS
        says_how_many = isinstance(launcher.get("n_jobs"), int) and launcher.n_jobs > 0  # joblib's own default is -1
        self.n_jobs: int = launcher.n_jobs if self._is_ours or says_how_many else config.hydra.sweeper.n_jobs
        are_here = launcher._target_ in (OURS, JOBLIB)
        self._lanes = shares(config, self.n_jobs) if are_here else [{}] * self.n_jobs

    def in_directory(self, sweep_dir: Path) -> Runner:
        """What runs trials whose runs lie in this directory."""
        return partial(self._by_processes if self._is_ours else self._by_launcher, sweep_dir)

    def _by_processes(self, sweep_dir: Path, trials: Iterator[Trial]) -> Iterator[tuple[int, End]]:
        jobs = (
            Job(
                trial.number,
                (*self._definition.words, *self._words(trial)),
                sweep_dir / str(trial.number),
                goes_on=trial.goes_on,
            )
            for trial in trials
        )
        for job, end in run_processes(jobs, self._lanes):
            yield job.number, end

    def _by_launcher(self, sweep_dir: Path, trials: Iterator[Trial]) -> Iterator[tuple[int, End]]:
        """In batches, for a launcher returns when all of its jobs have ended."""
        launcher = self._make_launcher(_in_directory(self._config, sweep_dir))
        for batch in _batches(trials, self.n_jobs):
            run_dirs = {trial.number: sweep_dir / str(trial.number) for trial in batch}
            known = {trial.number: recorded_end(run_dirs[trial.number]) for trial in batch if trial.goes_on}
            if any(known.values()):  # the sweep was killed before it could write this down
                yield from ((number, end) for number, end in known.items() if end is not None)
                batch = [trial for trial in batch if known.get(trial.number) is None]
            for part in _consecutive(batch):
                yield from self._launched(launcher, part, run_dirs)

    def _launched(self, launcher: Launcher, batch: list[Trial], run_dirs: dict[int, Path]) -> Iterator[tuple[int, End]]:
        lines = []
        for trial, lane in zip(batch, self._lanes, strict=False):
            run_dir = run_dirs[trial.number]
            goes_on = trial.goes_on and has_saved(run_dir)
            words = quote_free_text([f"resume={run_dir}"] if goes_on else self._words(trial))
            share = [f"++hydra.job.env_set.{name}='{value}'" for name, value in lane.items()]
            lines.append([*share, *words] if goes_on else [*share, *self._fixed, *words])
        try:
            returned = launcher.launch(lines, initial_job_idx=batch[0].number)
            ends = [job.return_value for job in returned]
        except Exception as error:  # of one job: the launcher has not waited for the others
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            ends = [_end_without_launcher(run_dirs[trial.number], why) for trial in batch]
        was_stopped = False
        for trial, end in zip(batch, ends, strict=True):
            known = end if isinstance(end, End) else End("failed", "its launcher returned without a result")
            was_stopped = was_stopped or known.status == "interrupted"
            yield trial.number, known
        if was_stopped:
            raise Stopped(signal.SIGINT)

    def _words(self, trial: Trial) -> list[str]:
        return [self._overrides[key](value) for key, value in trial.values.items()]


def _batches(trials: Iterator[Trial], size: int) -> Iterator[list[Trial]]:
    while batch := list(itertools.islice(trials, size)):
        yield batch


def _consecutive(batch: list[Trial]) -> Iterator[list[Trial]]:
    """A launcher numbers its jobs one after the other."""
    part: list[Trial] = []
    for trial in batch:
        if part and trial.number != part[-1].number + 1:
            yield part
            part = []
        part.append(trial)
    if part:
        yield part


def _end_without_launcher(run_dir: Path, why: str) -> End:
    """Of a job of which its launcher does not tell; when its process is still at work, then when it is not any more."""
    if run_dir.exists():
        with held(run_dir, key="run_dir", patience=-1):
            pass
    return recorded_end(run_dir) or end_of(run_dir, 1, why, was_stopped=False)


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
    as under joblib, a process may be used for several jobs: the trial gets one of its own. So it does where Lightning
    is to start its ranks, for which it must be a command that can be repeated.
    """
    hydra = HydraConfig.get()
    overrides = unresolved(hydra.overrides.task)
    run_dir = Path(hydra.sweep.dir, hydra.sweep.subdir).absolute()
    job = Job(hydra.job.num, tuple(child_words(OmegaConf.create({"hydra": hydra}), overrides)), run_dir)
    cluster = os.environ.get("SUBMITIT_EXECUTOR")
    n_ranks = devices.resolve(build.resolve(cfg.trainer)).n_ranks
    if cluster is None or (cluster == "local" and n_ranks > 1):
        try:
            ((_, end),) = run_processes(iter([job]), [{}])
        except Stopped as stop:  # the sweep is told by what this returns
            return End("interrupted", str(stop))
        return end
    os.environ.update(job.environment)
    try:
        status, line = train(cfg), None
    except Exception as error:
        status, line = status_and_line(error, "train", overrides)
    return end_of(run_dir, status, line or "", was_stopped=status > 128)
