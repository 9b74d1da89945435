"""What a configuration describes, built and run: model, data module, Trainer, loggers and callbacks.

Lightning is imported where it is needed: a second and more, which no mistake of a user has to wait for.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra.core.hydra_config import HydraConfig

from gptlab import build
from gptlab.checkpoint import Loaded
from gptlab.cli.init_from import initial_model
from gptlab.cli.prepared_data import PreparedData
from gptlab.cli.report import shortened
from gptlab.cli.resume import Stored
from gptlab.cli.trials import unresolved
from gptlab.errors import UserError
from gptlab.settings import Settings
from gptlab.sweep.definition import BITS_PER_BYTE, REPORTED, SWEEP, Definition
from gptlab.sweep.study import reporter
from gptlab.sweep.trial import this_trial
from gptlab.tokenizer import Tokenizer
from gptlab.training import devices
from gptlab.training.log import RunLog
from gptlab.training.run_dir import is_rank_zero
from gptlab.training.run_files import LAST, write_config

if TYPE_CHECKING:
    import lightning as L

    from gptlab.data.module import WindowDataModule
    from gptlab.training.module import TrainingModule
    from gptlab.training.run import Outcome

log = logging.getLogger("gptlab")


def rehearse(config: build.Config, settings: Settings, hardware: devices.Hardware, tokenizer: Tokenizer) -> None:
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


def fit(
    config: build.Config,
    settings: Settings,
    hardware: devices.Hardware,
    rows: int,
    data: PreparedData,
    loaded: Loaded | None,
    run_log: RunLog,
    before: Stored,
) -> "Outcome":
    """Build it all and train, in the run directory that `config` names.

    Args:
        config: complete, as config.yaml will have it.
        settings: its scalars.
        hardware: what the run uses.
        rows: sequences of a micro-batch.
        data: windows and tokenizer.
        loaded: the weights to start from; None for fresh ones.
        run_log: gets its file in the run directory.
        before: what an earlier session of this run has left.
    """
    from gptlab.training.device_check import check_device
    from gptlab.training.loggers.metrics_csv import CSV
    from gptlab.training.loggers.tensorboard import TensorBoard
    from gptlab.training.run import run

    run_dir = Path(config["run_dir"])
    module = _module(config, settings, rows, data, loaded)
    data_module = _data_module(config, settings, rows, data)
    if is_rank_zero():
        write_config(run_dir, config)  # first of all files: by it a run is known, however early it is killed
        run_log.open(run_dir)
        _announce(module, settings, hardware, loaded, before)
        log.info("run directory %s", shortened(run_dir))
    if settings.check_device and hardware.accelerator == "mps":
        check_device(module.model, module.objective, data.train.batch(np.arange(min(rows, len(data.train)))), hardware)
    starts_with_weights = loaded is not None and before.checkpoint is None
    trainer = _trainer(config, settings, hardware, validates_first=starts_with_weights or before.owes_validation)
    trainer.callbacks.extend(_pruning(module))  # type: ignore[attr-defined]
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


def _data_module(config: build.Config, settings: Settings, rows: int, data: PreparedData) -> "WindowDataModule":
    from gptlab.data.module import WindowDataModule

    return WindowDataModule(
        train=data.train,
        val=data.val,
        batch_size=settings.batch_size,
        micro_batch_size=rows,
        n_steps=settings.max_steps,
        seed=settings.seed,
        num_workers=build.data_settings(config).num_workers,
    )


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


def _pruning(module: "TrainingModule") -> "list[L.Callback]":
    """What ends a trial early in a sweep that prunes; nothing elsewhere.

    Raises:
        UserError: where the sweep looks at a metric that this run has not.
    """
    trial = this_trial()
    if trial is None or not (trial[0] / SWEEP).exists():  # of Hydra's own sweeper
        return []
    if Definition.read(trial[0]).metric == BITS_PER_BYTE and module.val_bytes_per_token is None:
        raise UserError(
            f"hydra.sweeper.metric={BITS_PER_BYTE}: bytes are known where the tokenizer keeps every byte of the text, "
            "and all of the validation text is used (trainer.limit_val_batches=1.0)"
        )
    reports = reporter(*trial)
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


def _flat(config: build.Config) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values, for the HPARAMS tab: what a run is, not where it lies or how it is built."""
    for key, value in build.leaves({name: node for name, node in config.items() if name not in build.LATE_GROUPS}):
        if not key.rpartition(".")[2].startswith("_") and key not in ("run_dir", "resume", "resume_sweep"):
            yield key, value


def _choices() -> dict[str, str]:
    """What each group was chosen to be: `model/attention` is `plain`. Not known of a run that goes on."""
    choices = HydraConfig.get().runtime.choices.items()
    return {group: str(choice) for group, choice in choices if choice is not None and not group.startswith("hydra/")}
