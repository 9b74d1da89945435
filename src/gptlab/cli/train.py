"""`gptlab train`: compose, check, prepare the text, train, sum up."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from gptlab import build
from gptlab.checkpoint import Loaded, load
from gptlab.cli.compose import run_command
from gptlab.cli.experiment_file import experiment_name
from gptlab.cli.init_from import check_vocabulary, initial_model, starting_config
from gptlab.cli.prepared_data import PreparedData, prepare_data
from gptlab.cli.report import report, shortened
from gptlab.cli.resume import NEWEST, NOTHING, Stored, check_same_text, mend, resumed_config, run_to_resume, stored
from gptlab.cli.sweep import command_to_resume
from gptlab.cli.trials import trial, unresolved
from gptlab.errors import UserError
from gptlab.settings import Settings
from gptlab.signals import END_OF_PROCESS, answering, leave, unanswered
from gptlab.sweep.definition import REPORTED
from gptlab.sweep.study import reporter
from gptlab.sweep.trial import end_with_the_sweep, this_trial
from gptlab.tokenizer import Tokenizer
from gptlab.training import devices
from gptlab.training.log import RunLog
from gptlab.training.requeue import run_of_this_job
from gptlab.training.run_dir import check_free, claimed, forget_ranks, held, is_rank_zero, shared_by_ranks
from gptlab.training.run_files import LAST, cut_back, read_summary, write_config

if TYPE_CHECKING:
    import lightning as L

    from gptlab.training.module import TrainingModule
    from gptlab.training.run import Outcome

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

        loaded, tokenizer = None, None
        if settings.init_from is not None:
            build.source(config)  # a text that is not there is known before half a gigabyte is fetched
            loaded = load(before.checkpoint or settings.init_from)
            tokenizer = loaded.tokenizer
        if loaded is not None and before.checkpoint is None:
            config = starting_config(loaded, config, unresolved(HydraConfig.get().overrides.task))
            build.check(config, trains_tokenizer=tokenizer is None)

        data = prepare_data(config, settings, tokenizer)
        if loaded is not None:
            check_vocabulary(loaded, data.corpus.tokenizer)
        if before.checkpoint is not None:
            check_same_text(before, data.corpus)
        _rehearse({**config, "run_dir": "outputs"}, settings, hardware, data.corpus.tokenizer)
        run_dir = resume_dir
        if run_dir is None:
            new = partial(stack.enter_context, claimed(wanted, _experiment()))
            run_dir = shared_by_ranks(new, wanted=wanted)
        elif is_rank_zero():
            mend(run_dir, before)
            cut_back(run_dir, before.appended)
        config = {**config, "run_dir": str(run_dir), "data": _absolute_paths(config["data"])}
        outcome = _fit(config, settings, hardware, rows, data, loaded, run_log, before)
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


def _absolute_paths(data: build.Config) -> build.Config:
    """A run resumes from anywhere."""
    paths = {name: data[name] for name in ("path", "cache_dir") if data.get(name) is not None}
    return {**data, **{name: str(Path(path).expanduser().absolute()) for name, path in paths.items()}}


def _rehearse(config: build.Config, settings: Settings, hardware: devices.Hardware, tokenizer: Tokenizer) -> None:
    """Build loggers, callbacks and Trainer once before there is a directory: what they refuse leaves nothing behind."""
    from gptlab.training.callbacks.attention import AttentionMaps
    from gptlab.training.callbacks.samples import Samples, encoded_prompt
    from gptlab.training.log import quiet_lightning

    quiet_lightning()
    for callback in _trainer(config, settings, hardware).callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Samples):
            encoded_prompt(callback.prompt, tokenizer, key="callbacks.samples.prompt")
        if isinstance(callback, AttentionMaps):
            one_layer = {**config, "model": {**config["model"], "n_layers": 1}}
            callback.rehearse(build.model(one_layer, build.STAND_IN_VOCABULARY), tokenizer)


def _trainer(
    config: build.Config, settings: Settings, hardware: devices.Hardware, *, validates_first: bool = False
) -> "L.Trainer":
    """Loggers, callbacks, and the Trainer that holds them; nothing is written yet.

    `validates_first`: weights that were trained before have a loss worth knowing before the first step changes them.
    """
    from lightning.pytorch.plugins.environments import SLURMEnvironment

    from gptlab.training.checkpoint_io import WholeFileCheckpointIO

    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []  # see training/requeue
    return build.trainer(
        config,
        accelerator=hardware.accelerator,
        precision=hardware.precision,
        logger=build.keyed(config, "logger"),
        callbacks=build.keyed(config, "callbacks"),
        plugins=[WholeFileCheckpointIO(), *slurm],
        max_steps=settings.max_steps,
        max_epochs=-1,
        val_check_interval=settings.validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=-1 if validates_first else 0,  # all of the validation text, as at any other step
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        default_root_dir=config["run_dir"],
    )


def _module(
    config: build.Config, settings: Settings, rows: int, data: PreparedData, loaded: Loaded | None
) -> "TrainingModule":
    """The model with fresh weights from the run's seed, or with those that were loaded, and all that trains it."""
    import torch

    from gptlab.training.module import TrainingModule

    tokenizer = data.corpus.tokenizer
    validates_all = config["trainer"].get("limit_val_batches", 1.0) == 1.0
    torch.manual_seed(settings.seed)
    return TrainingModule(
        model=initial_model(loaded, config) if loaded is not None else build.model(config, tokenizer.vocab_size),
        objective=build.objective(config),
        optimizer=build.optimizer(config),
        schedule=build.schedule(config),
        tokenizer=tokenizer,
        config=config,
        text_fingerprint=data.corpus.fingerprint,
        seed=settings.seed,
        micro_batch_size=rows,
        max_steps=settings.max_steps,
        grad_clip=settings.grad_clip,
        on_nonfinite=settings.on_nonfinite,
        val_bytes_per_token=data.val_bytes_per_token if validates_all else None,
    )


def _fit(
    config: build.Config,
    settings: Settings,
    hardware: devices.Hardware,
    rows: int,
    data: PreparedData,
    loaded: Loaded | None,
    run_log: RunLog,
    before: Stored,
) -> "Outcome":
    """Build what the configuration describes, and run it."""
    from gptlab.data.module import WindowDataModule
    from gptlab.training.device_check import check_device
    from gptlab.training.loggers.metrics_csv import CSV
    from gptlab.training.loggers.tensorboard import TensorBoard
    from gptlab.training.run import run

    run_dir = Path(config["run_dir"])
    module = _module(config, settings, rows, data, loaded)
    data_module = WindowDataModule(
        train=data.train,
        val=data.val,
        batch_size=settings.batch_size,
        micro_batch_size=rows,
        n_steps=settings.max_steps,
        seed=settings.seed,
        num_workers=build.data_settings(config).num_workers,
    )
    if is_rank_zero():
        write_config(run_dir, config)  # first of all files: by it a run is known, however early it is killed
        run_log.open(run_dir)
        _announce(module, settings, hardware, loaded, before)
        log.info("run directory %s", shortened(run_dir))
    if settings.check_device and hardware.accelerator == "mps":
        check_device(module.model, module.objective, data.train.batch(np.arange(min(rows, len(data.train)))), hardware)
    starts_with_weights = loaded is not None and before.checkpoint is None
    trainer = _trainer(config, settings, hardware, validates_first=starts_with_weights or before.owes_validation)
    trainer.callbacks.extend(_pruning())  # type: ignore[attr-defined]
    if config["resume"] is not None:
        for logger in trainer.loggers:
            if isinstance(logger, CSV | TensorBoard):
                logger.resume_at(before.steps)
    return run(
        trainer=trainer,
        module=module,
        data=data_module,
        run_dir=run_dir,
        flat_config={**dict(_flat(config)), **({} if config["resume"] is not None else _choices())},
        command=unresolved(HydraConfig.get().overrides.task),
        run_log=run_log,
        resume_from=run_dir / "checkpoints" / LAST if before.checkpoint is not None else None,
    )


def _pruning() -> "list[L.Callback]":
    """What ends a trial early in a sweep that prunes; nothing elsewhere."""
    trial = this_trial()
    reports = reporter(*trial) if trial is not None else None
    if reports is None:
        return []
    from gptlab.training.callbacks.pruning import Pruning

    metric, report = reports
    return [Pruning(metric=REPORTED[metric], report=report)]


def _announce(
    module: "TrainingModule", settings: Settings, hardware: devices.Hardware, loaded: Loaded | None, before: Stored
) -> None:
    """What is trained, from where, and on what."""
    n_parameters = sum(parameter.numel() for parameter in module.model.parameters())
    ranks = f"{hardware.n_ranks} x {hardware.accelerator}" if hardware.n_ranks > 1 else hardware.accelerator
    if before.checkpoint is not None:
        log.info("going on from step %s of %s", f"{before.steps:,}", f"{settings.max_steps:,}")
    elif loaded is not None:
        log.info(
            "starting from %s, with %s of its %s positions (context_length)",
            *(loaded.name, f"{module.model.context_length:,}", f"{loaded.model.context_length:,}"),
        )
    log.info("%s parameters on %s, precision %s", f"{n_parameters:,}", ranks, hardware.precision)


def _experiment() -> str:
    """The name that runs are filed under: the experiment's, or `default`."""
    return experiment_name(HydraConfig.get().runtime.choices.get("experiment"))


def _wanted_run_dir(run_dir: str | None) -> str | None:
    hydra = HydraConfig.get()
    if run_dir is None and hydra.mode == RunMode.MULTIRUN:
        return str(Path(hydra.sweep.dir, hydra.sweep.subdir))
    return run_dir


def _flat(config: build.Config) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values, for the HPARAMS tab: what a run is, not where it lies or how it is built."""
    for key, value in build.leaves({name: node for name, node in config.items() if name not in build.LATE_GROUPS}):
        if not key.rpartition(".")[2].startswith("_") and key not in ("run_dir", "resume", "resume_sweep"):
            yield key, value


def _choices() -> dict[str, str]:
    """What each group was chosen to be: `model/attention` is `plain`. Not known of a run that goes on."""
    choices = HydraConfig.get().runtime.choices.items()
    return {group: str(choice) for group, choice in choices if choice is not None and not group.startswith("hydra/")}
