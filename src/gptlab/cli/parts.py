"""What a configuration describes, as objects: the LightningDataModule, the LightningModule and the Trainer.

`gptlab train` is built of these functions, and so is a script of your own (docs/python.md). They import Lightning.
"""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from gptlab import build
from gptlab.checkpoint import Loaded
from gptlab.checkpoint.adapted import fingerprint_of
from gptlab.cli.load import initial_model
from gptlab.cli.progress import show_pieces
from gptlab.data.base import PreparedData
from gptlab.data.module import DataModule
from gptlab.errors import UserError
from gptlab.model import LanguageModel
from gptlab.model.blocks import checkpoint_activations, compile_blocks
from gptlab.tokenizer import Tokenizer
from gptlab.training import device_check, devices
from gptlab.training.module import TrainingModule
from gptlab.training.run_dir import is_rank_zero
from gptlab.training.trainer import make_trainer

log = logging.getLogger("gptlab")


def data_module(config: build.Config, *, tokenizer: Tokenizer | None = None) -> DataModule:
    """The LightningDataModule of a configuration, with its data prepared.

    Its tokenizer is trained on the text unless one is given, which came with weights. Under a Trainer of your own,
    `max_steps` is the number of training batches that it offers.

    Raises:
        UserError: if the data cannot be used.
    """
    rows = devices.rows_per_micro_batch(
        batch_size=config["batch_size"],
        micro_batch_size=config["micro_batch_size"],
        n_ranks=devices.resolve(config["trainer"]).n_ranks,
    )
    log.info("preparing the data")
    data = build.part(config, "data").prepare(
        tokenizer if tokenizer is not None else build.tokenizer_factory(config),
        context_length=config["context_length"],
        progress=show_pieces,
    )
    log.info("%s", data.description)
    return DataModule(
        data,
        batch_size=config["batch_size"],
        micro_batch_size=rows,
        n_steps=config["max_steps"],
        seed=config["seed"],
        num_workers=config["data"].get("num_workers", 0),
    )


def training_module(config: build.Config, data: DataModule, *, start: Loaded | None = None) -> TrainingModule:
    """The LightningModule of a configuration: a model with fresh weights from the run's seed, and all that trains it.

    Args:
        config: as `gptlab.compose` returns it.
        data: of the same configuration; its tokenizer decides the vocabulary.
        start: weights to start from, as `gptlab.load` returns them.
    """
    from gptlab.cli.costs import with_counted_steps  # it imports this file

    prepared = data.data
    config = with_counted_steps(_with_labels(config, prepared), data)
    if config["trainer"].get("limit_val_batches", 1.0) != 1.0:  # of the validated part it is not known
        prepared = replace(prepared, val_bytes_per_token=None)
    objective, is_sharded = build.part(config, "objective"), devices.resolve(config["trainer"]).is_sharded
    if is_sharded and hasattr(objective, "prepare"):
        name = type(objective).__name__
        raise UserError(f"trainer.strategy={devices.SHARDED}: {name} measures whole weights first; use trainer=ddp")
    model, base_fingerprint = _model(config, prepared.tokenizer, start, is_empty=is_sharded and not is_rank_zero())
    prepared_for_training(model, config)
    module = TrainingModule(
        model=model,
        objective=objective,
        optimizer=build.optimizer(config),
        schedule=build.part(config, "schedule"),
        data=prepared,
        config=config,
        seed=config["seed"],
        micro_batch_size=data.micro_batch_size,
        max_steps=config["max_steps"],
        grad_clip=config["grad_clip"],
        on_nonfinite=config["on_nonfinite"],
        log_every=config["log_every"],
        max_minutes=config["max_minutes"],
    )
    module.base_fingerprint = base_fingerprint
    return module


def _with_labels(config: build.Config, prepared: PreparedData) -> build.Config:
    """The configuration with the labels of a classifier, which are known only now."""
    if prepared.labels is None:
        return config
    if (given := config["model"].get("labels")) not in (None, prepared.labels):
        raise UserError(f"model.labels={given}: {prepared.name} has {prepared.labels}; leave it out")
    return {**config, "model": {**config["model"], "labels": prepared.labels}}


def model_without_memory(config: build.Config, prepared: PreparedData, *, device: str = "meta") -> LanguageModel:
    """The model that a run trains, with frozen parts and adapter but without weights; see `build.meta_model`."""
    model = build.meta_model(_with_labels(config, prepared), prepared.tokenizer.vocab_size, device=device)
    with torch.device(device):
        _choose_what_trains(config, model)
    return prepared_for_training(model, {**config, "compile": False})  # the compiler wants real tensors


def prepared_for_training(model: LanguageModel, config: build.Config) -> LanguageModel:
    """The same model, changed in place: by `activation_checkpointing` and `compile`."""
    if config["activation_checkpointing"]:
        checkpoint_activations(model)
    if config["compile"]:
        compile_blocks(model)
    return model


def _model(
    config: build.Config, tokenizer: Tokenizer, start: Loaded | None, *, is_empty: bool
) -> tuple[LanguageModel, str | None]:
    """The model with its first weights, and the fingerprint of those under an adapter; None if there is no adapter.

    If `is_empty`, fresh weights have no memory: this rank gets its part of them from rank 0.
    """
    torch.manual_seed(config["seed"])
    base_fingerprint = fingerprint_of(start) if start is not None and "adapter" in config else None
    if start is not None:
        model = initial_model(start, config, tokenizer)
    else:
        make = build.meta_model if is_empty else build.model
        model = make(config, tokenizer.vocab_size)
    _choose_what_trains(config, model)
    return model, base_fingerprint


def _choose_what_trains(config: build.Config, model: LanguageModel) -> None:
    if "adapter" not in config:
        model.tune(config["tune"])
        return
    build.settings_of(build.part(config, "adapter").apply, {"model": model}, "adapter")
    if not model.generates:
        model.head.requires_grad_(True)  # a classifier's head is new


def trainer(config: build.Config, callbacks: list[L.Callback]) -> L.Trainer:
    """The Trainer of `gptlab train`, with the configuration's loggers and callbacks, and further callbacks.

    Raises:
        UserError: if a logger, a callback or the Trainer refuses its settings.
    """
    loggers = build.instantiate_group(config, "logger")
    callbacks = [*build.instantiate_group(config, "callbacks"), *callbacks]
    try:
        return make_trainer(
            partial(build.construct, config["trainer"], key="trainer"),
            hardware=devices.resolve(config["trainer"]),
            loggers=loggers,
            callbacks=callbacks,
            max_steps=config["max_steps"],
            validate_every=config["validate_every"],
            log_every=config["log_every"],
            run_dir=Path(config["run_dir"]),
        )
    except MisconfigurationException as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from None


def check_device(module: TrainingModule, data: DataModule, hardware: devices.Hardware) -> None:
    """On MPS, compare a step with the CPU's. Raises UserError if they differ."""
    if hardware.accelerator == "mps":
        train = data.data.train
        batch = train.batch(np.arange(min(data.micro_batch_size, len(train))))
        found = device_check.compare(module.model, module.objective, batch, device="mps", precision=hardware.precision)
        log.info("mps agrees with the CPU: %s", found)
