"""What a step of a configuration's run costs on its device, and what a run says of it. It imports Lightning."""

import logging
import math
from copy import copy
from functools import partial

import numpy as np
import torch
from torch import nn

from gptlab import build
from gptlab.cli.budget import counted_steps
from gptlab.cli.parts import model_without_memory
from gptlab.data.module import DataModule
from gptlab.errors import UserError
from gptlab.training import devices
from gptlab.training.budget import OPEN, budget_of
from gptlab.training.cost import flops_per_token, step_memory
from gptlab.training.devices import SHARDED, Hardware
from gptlab.training.machine import memory_bytes, peak_flops, resident_bytes
from gptlab.training.module import TrainingModule
from gptlab.training.rank_cost import bytes_sent, memory_of_rank

log = logging.getLogger("gptlab")

FEW_LAYERS = 3
SAMPLED = 256  # examples, for the length of the longest one
LARGE = 1e11  # operations of a micro-batch; smaller ones take less than a few GiB
GAPS = 0.25
"""Freed memory of a CPU's heap that no later tensor fits in: measured, 0.24 to 0.32 of activations and loss."""


class Costs:
    """Counted for one run.

    Args:
        loaded: a model whose weights are in this process already.

    Attributes:
        rows, length: sequences of a micro-batch, and input tokens of the longest one.
    """

    def __init__(
        self, config: build.Config, data: DataModule, hardware: Hardware, *, loaded: nn.Module | None = None
    ) -> None:
        examples = data.data.train
        self._row = tuple(part[:1] for part in examples.batch(np.arange(min(SAMPLED, len(examples)))))
        self.rows, self.length = data.micro_batch_size, self._row[0].numel()
        self._data, self._hardware, self._share = data, hardware, data.batch_size // hardware.n_ranks
        self._process = resident_bytes() - (sum(p.nbytes for p in loaded.parameters()) if loaded is not None else 0)
        self._set(config)

    def _set(self, config: build.Config) -> None:
        self._config, data = config, self._data
        self.model = partial(model_without_memory, config, data.data)
        as_is = {**config, "activation_checkpointing": False}  # computing twice is no use of the device
        self._model_to_count = partial(model_without_memory, as_is, data.data)

    def flops_per_token(self) -> float:
        """Raises UserError if model or objective look at values; so do the others."""
        return flops_per_token(self._model_to_count(), build.part(self._config, "objective"), self._row)

    def memory(self, rows: int, *, is_sharded: bool | None = None) -> dict[str, int]:
        """Bytes by kind on one rank: see `step_memory` and `memory_of_rank`; of the run's own strategy if it is None.

        On a CPU `other` is the process, and gaps between tensors.
        """
        device = self._hardware.accelerator
        kinds = step_memory(
            partial(self.model, device=device),
            build.part(self._config, "objective"),
            build.optimizer(self._config),
            tuple(part.expand(rows, *part.shape[1:]) for part in self._row),
            hardware=self._hardware,
            accumulates=rows < self._share,
        )
        if device == "cpu":
            gaps = int(GAPS * (kinds["activations"] + kinds["loss"]))
            kinds["other"] = self._process + gaps
            kinds["all"] += kinds["other"]
        sharded = self._hardware.is_sharded if is_sharded is None else is_sharded
        return memory_of_rank(kinds, self.model(), n_ranks=self._hardware.n_ranks, is_sharded=sharded)

    def largest(self, *, is_sharded: bool) -> tuple[int, int] | None:
        """Layers and parameters of the deepest model of this width that fits; None if it has no `n_layers`.

        Memory and parameters grow by the same amount with each layer.
        """
        has, settings = available(self._hardware), self._config["model"]
        if has is None or "n_layers" not in settings:
            return None
        counted = []
        for n_layers in (FEW_LAYERS, FEW_LAYERS + 1):
            one = copy(self)
            one._set({**self._config, "model": {**settings, "n_layers": n_layers}})
            counted.append(
                (one.memory(self.rows, is_sharded=is_sharded)["all"], sum(map(torch.numel, one.model().parameters())))
            )
        (memory, n), (memory_more, n_more) = counted
        if memory_more <= memory:
            return None
        further = (has - memory) // (memory_more - memory)
        return (FEW_LAYERS + further, n + further * (n_more - n)) if further > -FEW_LAYERS else None

    def bytes_sent(self, *, is_sharded: bool) -> int:
        """Bytes that each rank sends in a step."""
        n = self._share // self.rows
        return bytes_sent(self.model(), n_ranks=self._hardware.n_ranks, is_sharded=is_sharded, n_micro_batches=n)

    def misfit(self, needs: int) -> str | None:
        """One sentence if a step needs more bytes than the device has."""
        has = available(self._hardware)
        if has is None or needs <= has:
            return None
        smaller = (rows for rows in range(self.rows - 1, 0, -1) if self._share % rows == 0)
        fits = next((rows for rows in smaller if self.memory(rows)["all"] <= has), None)
        advice = f"micro_batch_size={fits} fits" if fits else "no micro_batch_size does: use a smaller model"
        if not fits and not self._hardware.is_sharded and self.memory(self.rows, is_sharded=True)["all"] <= has:
            advice = f"trainer={SHARDED} fits"
        return f"it will not fit: needs {shown(needs)}, has {shown(has)}; {advice}"


def warn(module: TrainingModule, data: DataModule, hardware: Hardware) -> None:
    """Log what the run needs, if it is large enough that memory could be scarce: counting takes a second."""
    costs = Costs(module.config, data, hardware, loaded=module.model)
    if 6 * sum(map(torch.numel, module.model.parameters())) * costs.rows * costs.length < LARGE:
        return
    try:
        flops, needs = costs.flops_per_token(), costs.memory(costs.rows)["all"]
        misfit = costs.misfit(needs)
    except Exception as error:  # an estimate must not end a run
        log.info("memory is not known beforehand: %s", error)
        return
    log.info("%s million FLOPs a token, about %s of memory", f"{flops / 1e6:,.1f}", shown(needs))
    if misfit:
        log.warning("%s", misfit)


def flops_and_peak(config: build.Config, data: DataModule, hardware: Hardware) -> tuple[float, float] | None:
    """Operations of an input token, and the most that one device does in a second; None if they cannot be counted."""
    try:
        with torch.inference_mode(False):  # it is called during validation
            flops = Costs(config, data, hardware).flops_per_token()
        return flops, peak_flops(hardware.accelerator, hardware.precision)[0]
    except Exception as error:  # as above
        log.info("mfu is not known: %s", error)
        return None


def with_counted_steps(config: build.Config, data: DataModule) -> build.Config:
    """The configuration with the steps that max_tokens or max_flops allows; the data module learns of them.

    Raises UserError if the data have rows of different lengths.
    """
    if config["max_steps"] != OPEN or config["max_minutes"] is not None:
        return config
    if data.data.template is not None or data.data.labels is not None:
        name = budget_of(config).partition("=")[0]
        raise UserError(f"{name}: the rows of {data.data.name} differ in length; use max_steps or max_minutes")
    costs = Costs(config, data, devices.resolve(config["trainer"]))
    tokens = data.batch_size * costs.length
    flops = tokens * costs.flops_per_token() if config["max_flops"] is not None else math.nan
    config = counted_steps(config, tokens=tokens, flops=flops)
    data.n_steps = config["max_steps"]
    log.info("%s: %s steps of %s tokens", budget_of(config), f"{data.n_steps:,}", f"{tokens:,}")
    return config


def available(hardware: Hardware) -> int | None:
    """Bytes that one rank may take: ranks on a CPU share its memory. None if they are not known."""
    has = memory_bytes(hardware.accelerator)
    shared_by = hardware.n_ranks // hardware.n_nodes if hardware.accelerator == "cpu" else 1
    return None if has is None else has // shared_by


def shown(n_bytes: float) -> str:
    return f"{n_bytes / (1 << 30):,.2f} GiB" if n_bytes >= 1 << 30 else f"{n_bytes / (1 << 20):,.1f} MiB"
