"""`gptlab train`: compose, check, prepare the text, train, sum up."""

import logging
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from gptlab import build
from gptlab.checkpoint import Loaded, load
from gptlab.cli.compose import run_command
from gptlab.cli.experiment_file import experiment_name
from gptlab.cli.fit import fit, rehearse
from gptlab.cli.init_from import check_vocabulary, starting_config
from gptlab.cli.prepared_data import prepare_data
from gptlab.cli.report import report, shortened
from gptlab.cli.resume import NEWEST, NOTHING, Stored, check_same_text, mend, resumed_config, run_to_resume, stored
from gptlab.cli.sweep import command_to_resume
from gptlab.cli.trials import trial, unresolved
from gptlab.errors import UserError
from gptlab.settings import Settings
from gptlab.signals import END_OF_PROCESS, answering, leave, unanswered
from gptlab.sweep.trial import end_with_the_sweep, this_trial
from gptlab.training import devices
from gptlab.training.log import RunLog
from gptlab.training.requeue import run_of_this_job
from gptlab.training.run_dir import check_free, claimed, forget_ranks, held, is_rank_zero, shared_by_ranks
from gptlab.training.run_files import cut_back, read_summary

log = logging.getLogger("gptlab")


def main(arguments: list[str]) -> int:
    """The exit status of one training command."""
    return run_command(train, config_name="train", arguments=arguments, job=partial(trial, train))


def train(cfg: DictConfig) -> int:
    """One run. Everything is checked before data is read, and all data before a directory is made."""
    config = build.resolve(cfg)
    if HydraConfig.get().mode == RunMode.RUN:
        _begin_alone(cfg)
    run_log = RunLog(speaks=is_rank_zero())
    with ExitStack() as stack:
        stack.enter_context(answering(*unanswered(*END_OF_PROCESS), by=leave))  # until there are steps to finish
        stack.callback(run_log.close)
        stack.callback(forget_ranks)
        resume_dir, before = _what_is_resumed(cfg, stack)
        if resume_dir is not None and cfg.resume is None and read_summary(resume_dir).get("status") == "finished":
            log.info("this job has been here before: its run in %s is finished", shortened(resume_dir))
            return 0
        if resume_dir is not None:
            changes = unresolved(HydraConfig.get().overrides.task) if cfg.resume is not None else []
            config = resumed_config(resume_dir, before, config, changes)
        build.check(config, trains_tokenizer=config.get("init_from") is None)
        settings = build.settings(config)
        hardware = devices.resolve(config["trainer"])
        rows = devices.rows_per_micro_batch(
            batch_size=settings.batch_size, micro_batch_size=settings.micro_batch_size, n_ranks=hardware.n_ranks
        )
        wanted = _wanted_run_dir(settings.run_dir)
        if resume_dir is None and is_rank_zero():
            check_free(wanted)

        loaded, config = _starting_weights(config, settings, before)
        data = prepare_data(config, settings, loaded.tokenizer if loaded is not None else None)
        if loaded is not None:
            check_vocabulary(loaded, data.corpus.tokenizer)
        if before.checkpoint is not None:
            check_same_text(before, data.corpus)
        rehearse({**config, "run_dir": "outputs"}, settings, hardware, data.corpus.tokenizer)
        run_dir = resume_dir
        if run_dir is None:
            new = partial(stack.enter_context, claimed(wanted, _experiment()))
            run_dir = shared_by_ranks(new, wanted=wanted)
        elif is_rank_zero():
            mend(run_dir, before)
            cut_back(run_dir, before.appended)
        config = {**config, "run_dir": str(run_dir), "data": _absolute_paths(config["data"])}
        outcome = fit(config, settings, hardware, rows, data, loaded, run_log, before)
        if is_rank_zero():
            samples = config["callbacks"].get("samples") or {}
            report(outcome, run_dir, prompt=samples.get("prompt") or data.prompt())
        if outcome.queue_again is not None:
            outcome.queue_again()
    if not is_rank_zero() and outcome.end.is_shared:
        return 0  # or Lightning would kill the first rank for another's status
    return outcome.exit_status


def _begin_alone(cfg: DictConfig) -> None:
    """In a process that trains one run: of its own, or as a trial of the sweep that has started it.

    Raises:
        UserError: where it was to be a sweep.
    """
    sweep = HydraConfig.get().runtime.choices.get("sweep")
    if cfg.resume_sweep is not None:
        raise UserError(command_to_resume(cfg.resume_sweep))
    if this_trial() is None and sweep is not None:
        raise UserError(f"sweep={sweep} starts no sweep: its file lacks `hydra: mode: MULTIRUN`, or start it with -m")
    if this_trial() is not None and is_rank_zero():
        end_with_the_sweep()


def _what_is_resumed(cfg: DictConfig, stack: ExitStack) -> tuple[Path | None, Stored]:
    """The run that goes on, held for this process alone, and what it has left; (None, nothing) for a new run."""
    of_this_job = run_of_this_job(
        _wanted_run_dir(cfg.run_dir), _experiment(), unresolved(HydraConfig.get().overrides.task)
    )
    if cfg.resume is None and of_this_job is None:
        return None, NOTHING

    def choose() -> Path:
        run_dir = run_to_resume(cfg.resume) if cfg.resume is not None else of_this_job
        assert run_dir is not None
        stack.enter_context(held(run_dir, key="resume"))
        return run_dir

    by_name = cfg.resume if cfg.resume != NEWEST else None  # which the first rank may have made another meanwhile
    run_dir = shared_by_ranks(choose, wanted=str(of_this_job) if of_this_job is not None else by_name)
    return run_dir, stored(run_dir)


def _starting_weights(config: build.Config, settings: Settings, before: Stored) -> tuple[Loaded | None, build.Config]:
    """What `init_from` names, as far as this run has trained it, and the configuration with its sizes."""
    if settings.init_from is None:
        return None, config
    build.source(config)  # a text that is not there is known before half a gigabyte is fetched
    loaded = load(before.checkpoint or settings.init_from)
    if before.checkpoint is None:
        config = starting_config(loaded, config, unresolved(HydraConfig.get().overrides.task))
        build.check(config, trains_tokenizer=loaded.tokenizer is None)
    return loaded, config


def _absolute_paths(data: build.Config) -> build.Config:
    """A run resumes from anywhere."""
    paths = {name: data[name] for name in ("path", "cache_dir") if data.get(name) is not None}
    return {**data, **{name: str(Path(path).expanduser().absolute()) for name, path in paths.items()}}


def _experiment() -> str:
    """The name that runs are filed under: the experiment's, or `default`."""
    return experiment_name(HydraConfig.get().runtime.choices.get("experiment"))


def _wanted_run_dir(run_dir: str | None) -> str | None:
    hydra = HydraConfig.get()
    if run_dir is None and hydra.mode == RunMode.MULTIRUN:
        return str(Path(hydra.sweep.dir, hydra.sweep.subdir))
    return run_dir
