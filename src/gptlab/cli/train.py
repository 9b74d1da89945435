"""`gptlab train`: compose, open the run, build data, module and Trainer, fit, report."""

import logging
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from gptlab import build
from gptlab.checkpoint import Loaded
from gptlab.cli.budget import choose_budget
from gptlab.cli.compose import run_command
from gptlab.cli.load import starting_weights
from gptlab.cli.report import report, shortened
from gptlab.cli.resume import (
    OF_THE_COMMAND,
    check_resumable,
    is_finished,
    make_last,
    resumed_config,
    state_to_resume,
)
from gptlab.cli.settings import TrainSettings, absolute_paths, check
from gptlab.cli.sweep import command_to_resume
from gptlab.cli.trials import begin_trial, pruning_callbacks, unresolved
from gptlab.errors import UserError
from gptlab.memory import keep_freed_memory, no_collection
from gptlab.signals import END_OF_PROCESS, leave, signal_handler, unhandled
from gptlab.sweep.trial import this_trial
from gptlab.training import devices
from gptlab.training.budget import budget_of
from gptlab.training.launchers import check_launcher
from gptlab.training.log import RunLog
from gptlab.training.run_dir import check_free, create_run_dir, forget_ranks, is_rank_zero, run_label, shared_by_ranks
from gptlab.training.run_files import ResumeState

if TYPE_CHECKING:
    from lightning import Callback

    from gptlab.data.module import DataModule
    from gptlab.training.module import TrainingModule

log = logging.getLogger("gptlab")


def train(cfg: DictConfig) -> int:
    """One run. Most settings are checked before data is read, and all data before a directory is made."""
    _check_is_one_run(cfg)
    _begin()
    overrides = unresolved(HydraConfig.get().overrides.task)
    run_log = RunLog(writes=is_rank_zero())
    with ExitStack() as stack:
        stack.enter_context(signal_handler(*unhandled(*END_OF_PROCESS), handler=leave))  # until run() handles them
        stack.callback(run_log.close)
        stack.callback(forget_ranks)

        config = build.resolve(choose_budget(cfg, overrides))
        state = state_to_resume(config, stack)  # empty for a new run
        if state.run_dir is not None:
            config = resumed_config(state, config, overrides)
        settings = check(config)
        if is_finished(state, config):  # resume=auto only: resumed_config refuses the others
            log.info("the run in %s is finished", shortened(Path(config["run_dir"])))
            return 0
        if state.run_dir is None and is_rank_zero():
            check_free(settings.run_dir)
        hardware = _hardware(config, settings)

        with no_collection():
            from gptlab.cli import costs, parts  # Lightning: seconds that no mistake above has to wait for
            from gptlab.training.run import run

        start, config = starting_weights(config, state.checkpoint, overrides)
        if start is not None:
            check(config, decided=True)  # again: the weights have decided parts of the model
        data = parts.data_module(config, tokenizer=start.tokenizer if start is not None else None)
        config = costs.with_counted_steps(config, data)
        check_resumable(state, config, data.data)

        run_dir = _open_run_dir(settings, state, overrides, stack)
        config = {**config, "run_dir": str(run_dir), "resume": None, "data": absolute_paths(config["data"])}
        module = parts.training_module(config, data, start=start)
        if start is not None and state.checkpoint is None:
            module.validated_step = -1  # the weights are validated before the first step
        trainer = parts.trainer(config, _callbacks(module, data, hardware))
        if is_rank_zero():
            _announce(module, data, hardware, start, state)
        if settings.check_device:
            parts.check_device(module, data, hardware)

        result = run(
            trainer=trainer,
            module=module,
            data=data,
            run_dir=run_dir,
            hparams=_hparams(config),
            run_log=run_log,
            resume=state,
        )
        if is_rank_zero():
            report(result, module, run_dir)
        if result.requeue is not None:
            result.requeue()
    speaks = is_rank_zero() or not result.on_all_ranks  # Lightning kills rank 0 if another rank's status is not 0
    return result.exit_status if speaks else 0


main = partial(run_command, train, config_name="train")


def _begin() -> None:
    """What comes before the first large tensor, and before anything that a sweep waits for."""
    keep_freed_memory()
    if HydraConfig.get().mode == RunMode.RUN:  # standard input of a cluster's job is not the sweep's
        begin_trial()


def _check_is_one_run(cfg: DictConfig) -> None:
    """Raises UserError if the command was meant to be a sweep."""
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        return  # a job that a launcher of Hydra's has started
    if cfg.resume_sweep is not None:
        raise UserError(command_to_resume(cfg.resume_sweep))
    sweep = hydra.runtime.choices.get("sweep")
    if sweep is not None and this_trial() is None:
        raise UserError(f"sweep={sweep} starts no sweep: its file lacks `hydra: mode: MULTIRUN`, or start it with -m")


def _hardware(config: build.Config, settings: TrainSettings) -> devices.Hardware:
    """What the run trains on. Raises UserError if it cannot."""
    hardware = devices.resolve(config["trainer"])
    check_launcher(n_ranks=hardware.n_ranks, n_nodes=config["trainer"]["num_nodes"])
    if settings.compile and is_rank_zero():  # before Lightning each rank would take the first GPU
        devices.check_compiler(hardware.accelerator)
    return hardware


def _open_run_dir(settings: TrainSettings, state: ResumeState, overrides: list[str], stack: ExitStack) -> Path:
    """The run's directory, locked for this process: a new one, or the one that state_to_resume has locked."""
    if state.run_dir is None:
        experiment = HydraConfig.get().runtime.choices.get("experiment") or "default"
        created = create_run_dir(settings.run_dir, experiment, run_label(overrides))
        return shared_by_ranks(partial(stack.enter_context, created), wanted=settings.run_dir)
    if is_rank_zero():
        make_last(state)
    return state.run_dir


def _callbacks(module: "TrainingModule", data: "DataModule", hardware: devices.Hardware) -> "list[Callback]":
    """Those that no setting names."""
    from gptlab.cli.costs import flops_and_peak
    from gptlab.training.callbacks.compilation import Compilation
    from gptlab.training.callbacks.utilization import Utilization

    utilization = Utilization(partial(flops_and_peak, module.config, data, hardware))
    compilation = [Compilation(data.micro_batch_size)] if module.config["compile"] else []
    return [*compilation, utilization, *pruning_callbacks(module.metric_names)]


def _announce(
    module: "TrainingModule", data: "DataModule", hardware: devices.Hardware, start: Loaded | None, state: ResumeState
) -> None:
    """Say what is trained, from what, on what, and whether it fits."""
    from gptlab.cli.costs import warn

    n_parameters = sum(parameter.numel() for parameter in module.model.parameters())
    ranks = f"{hardware.n_ranks} x {hardware.accelerator}" if hardware.n_ranks > 1 else hardware.accelerator
    if state.checkpoint is not None:
        end = budget_of(module.config) if module.config["max_minutes"] else f"{module.config['max_steps']:,}"
        log.info("resuming from step %s of %s", f"{state.steps:,}", end)
        factor, n_steps = build.part(module.config, "schedule"), module.config["max_steps"]
        if (
            module.config["max_minutes"] is None
            and state.steps < n_steps
            and factor(state.steps) == factor(n_steps - 1) == 0
        ):
            log.warning("the schedule has ended, so the learning rate is 0: schedule.total_steps=<steps> moves its end")
    elif start is not None:
        log.info("starting from %s, with %s positions (context_length)", start.name, f"{module.model.context_length:,}")
    if module.config["max_minutes"] is not None:
        log.info(
            "max_minutes: how many steps fit depends on the machine, so a repeated or resumed run is not bit-equal"
        )
    if module.model.generates and not module.model.causal:
        log.warning(
            "this model is not causal: each position sees the token that it is asked for, so its loss is not comparable"
        )
    n_trainable = sum(parameter.numel() for parameter in module.model.parameters() if parameter.requires_grad)
    trainable = f" ({n_trainable:,} of them train)" if n_trainable < n_parameters else ""
    log.info("%s parameters%s on %s, precision %s", f"{n_parameters:,}", trainable, ranks, hardware.precision)
    devices.warn_of_emulation(hardware)
    warn(module, data, hardware)
    log.info("run directory %s", shortened(Path(module.config["run_dir"])))


def _hparams(config: build.Config) -> dict[str, object]:
    """Dotted settings for TensorBoard's HPARAMS tab: what a run is, not where it lies or how it is built."""
    nodes = {name: node for name, node in config.items() if name not in (*build.LATE_GROUPS, *OF_THE_COMMAND)}
    settings = {key: value for key, value in build.flatten(nodes) if not key.rpartition(".")[2].startswith("_")}
    decided = () if config["init_from"] is None else ("model", "tokenizer")  # by the weights
    for group, choice in HydraConfig.get().runtime.choices.items():
        if choice is not None and group.partition("/")[0] not in ("hydra", *decided):
            settings[group] = str(choice)
    path = config["data"].get("path")
    return settings if path is None else {**settings, "data": Path(path).name}
