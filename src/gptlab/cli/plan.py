"""`gptlab plan`: what a run costs, before it starts: parameters, operations, memory, and the time if probed."""

import statistics
import tempfile
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch import nn

from gptlab import build
from gptlab.cli.budget import choose_budget
from gptlab.cli.compose import run_command
from gptlab.cli.load import starting_weights
from gptlab.cli.settings import check
from gptlab.cli.trials import unresolved
from gptlab.errors import UserError
from gptlab.memory import keep_freed_memory, no_collection
from gptlab.training import devices
from gptlab.training.cost import n_non_embedding
from gptlab.training.machine import peak_flops
from gptlab.training.run_dir import is_rank_zero

if TYPE_CHECKING:
    from gptlab.cli.costs import Costs
    from gptlab.data.module import DataModule

PROBE_STEPS, PROBE_WARMUP = 10, 3


def plan(cfg: DictConfig) -> int:
    """Print a line for each fact."""
    keep_freed_memory()  # as training does
    overrides = unresolved(HydraConfig.get().overrides.task)
    config = build.resolve(choose_budget(cfg, overrides))
    config = {key: value for key, value in config.items() if key not in ("probe", "network")}
    if not isinstance(cfg.probe, bool):
        raise UserError(f"probe={cfg.probe} must be true or false")
    if cfg.network is not None and not (isinstance(cfg.network, int | float) and cfg.network > 0):
        raise UserError(f"network={cfg.network} must be the GB/s that each rank can send, or null")
    if config["resume"] is not None:
        raise UserError("resume= is for train: a plan is of a whole run")
    check(config)
    hardware = devices.resolve(config["trainer"])
    devices.warn_of_emulation(hardware)
    if cfg.probe and config["compile"]:
        devices.check_compiler(hardware.accelerator)

    with no_collection():
        from gptlab.cli import costs, parts  # they import Lightning

    start, config = starting_weights(config, None, overrides)
    data = parts.data_module(config, tokenizer=start.tokenizer if start else None)
    config = costs.with_counted_steps(config, data)
    counted = costs.Costs(config, data, hardware, loaded=start.model if start else None)
    _show_parameters(counted.model())
    flops, memory = counted.flops_per_token(), counted.memory(counted.rows)
    _show("FLOPs a token", f"{flops / 1e6:,.1f} million with attention, forward and backward")

    tokens, n_steps, minutes = data.batch_size * counted.length, config["max_steps"], config["max_minutes"]
    shape = f"{data.batch_size // counted.rows} x {counted.rows} x {counted.length:,}"
    _show("a step", f"{tokens:,} tokens ({shape}), {hardware.precision}")
    needs, has = memory.pop("all"), costs.available(hardware)
    _show(
        "memory", f"{costs.shown(needs)} of {costs.shown(has) if has else 'an unknown size'} on {hardware.accelerator}"
    )
    for kind, size in memory.items():
        _show(f"  {kind}", f"{costs.shown(size):>11}")
    if misfit := counted.misfit(needs):
        if cfg.probe:
            raise UserError(f"probe=true: {misfit}")
        _show("", misfit)
    _show_strategies(counted, hardware, network=cfg.network)

    peak, source = peak_flops(hardware.accelerator, hardware.precision)
    fastest = hardware.n_ranks * peak / flops
    _show("peak", f"{peak / 1e12:.3g} TFLOP/s, {source}")
    _show("at the peak", _progress(fastest, tokens, n_steps, minutes))
    if cfg.probe:
        speed = measured_speed(config, data, hardware)
        _show("measured", f"{_progress(speed, tokens, n_steps, minutes)}, MFU {speed / fastest:.0%}")
    return 0


main = partial(run_command, plan, config_name="plan")


def measured_speed(config: build.Config, data: "DataModule", hardware: devices.Hardware) -> float:
    """Input tokens a second over all ranks: some real steps, of at most two micro-batches each."""
    import lightning as L

    from gptlab.cli import parts

    ends: list[float] = []

    class StepEnds(L.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
            if hardware.accelerator == "cuda":
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    short = {**config, "max_steps": PROBE_STEPS, "logger": {}, "callbacks": {}, "init_from": None}
    short["batch_size"] = min(config["batch_size"], 2 * hardware.n_ranks * data.micro_batch_size)
    short["trainer"] = {**config["trainer"], "limit_val_batches": 0}
    with tempfile.TemporaryDirectory() as short["run_dir"]:
        module = parts.training_module(short, data)
        data.batch_size, data.n_steps = short["batch_size"], PROBE_STEPS
        parts.trainer(short, [StepEnds()]).fit(module, datamodule=data)
    row = data.data.train.batch(np.arange(1))[0]
    return row.numel() * data.batch_size / statistics.median(np.diff(ends[PROBE_WARMUP:]).tolist())


def _show_parameters(model: nn.Module) -> None:
    """With and without embeddings; a head that is tied to one is without, too."""
    parameters = dict.fromkeys(model.parameters())
    n, n_trainable = sum(map(torch.numel, parameters)), sum(p.numel() for p in parameters if p.requires_grad)
    rest = n_non_embedding(model)
    _show("parameters", f"{n:,}" if n_trainable == n else f"{n:,}, {n_trainable:,} of them train")
    _show("  no embeddings", f"{rest:,}; 6N is {6e-6 * rest:,.1f} million FLOPs a token")


def _show_strategies(counted: "Costs", hardware: devices.Hardware, *, network: float | None) -> None:
    """For each strategy the deepest model that fits; of several ranks, memory and what a rank sends in a step."""
    from gptlab.cli.costs import shown

    is_alone = hardware.n_ranks == 1
    for name in ("largest",) if is_alone else ("ddp", devices.SHARDED):
        is_sharded, facts = name == devices.SHARDED, []
        if not is_alone:
            sent = counted.bytes_sent(is_sharded=is_sharded)
            at = f" ({sent / network / 1e9:.3g} s at {network:g} GB/s)" if network else ""
            facts = [f"{shown(counted.memory(counted.rows, is_sharded=is_sharded)['all'])} a rank"]
            facts.append(f"sends {shown(sent)} a step{at}")
        if largest := counted.largest(is_sharded=is_sharded):
            facts.append(f"{largest[0]:,} layers of this width fit ({largest[1]:,} parameters)")
        if facts:
            _show(name, ", ".join(facts))


def _show(name: str, value: str) -> None:
    if is_rank_zero():
        print(f"{name:18}{value}", flush=True)


def _progress(speed: float, tokens: int, n_steps: int, limit: float | None) -> str:
    """Speed, and the time that `n_steps` take, or the steps that fit into `limit` minutes."""
    n_steps = n_steps if limit is None else round(60 * limit * speed / tokens)
    minutes, seconds = divmod(round(n_steps * tokens / speed), 60)
    return f"{speed:,.0f} tokens/s, {minutes // 60}:{minutes % 60:02d}:{seconds:02d} for {n_steps:,} steps"
