"""Accelerator, devices and precision of a run, checked before anything heavy is imported or read."""

import logging
from dataclasses import dataclass
from typing import Any

import torch

from gptlab.errors import UserError

log = logging.getLogger("gptlab")

SHORT_PRECISIONS = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "64": "64-true"}
SHARDED = "fsdp2"
"""trainer.strategy of `training.sharding`; Lightning has no name for it."""
PRECISIONS = {
    "cpu": ("32-true", "bf16-mixed", "bf16-true", "64-true"),  # fp16 has no fast kernels on a CPU
    "mps": ("32-true", "16-mixed", "bf16-mixed"),
    "cuda": ("32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true"),
}


@dataclass(frozen=True)
class Hardware:
    """Resolved settings: cpu, cuda or mps; devices x nodes; one of Lightning's precisions."""

    accelerator: str
    n_ranks: int
    precision: str
    is_sharded: bool = False
    n_nodes: int = 1


def resolve(trainer: dict[str, Any]) -> Hardware:
    """Resolve `auto` and check that this machine has what is asked for.

    Args:
        trainer: settings of Lightning's Trainer. precision=None takes the default of the device.

    Raises:
        UserError: if this machine lacks it.
    """
    for name in ("accelerator", "devices", "num_nodes", "strategy", "precision"):
        if name not in trainer:
            raise UserError(f"trainer.{name} is missing: every file of conf/trainer sets it")
    strategy, n_nodes, precision = trainer["strategy"], trainer["num_nodes"], trainer["precision"]
    device = device_type(trainer["accelerator"], key="trainer.accelerator")
    if not isinstance(n_nodes, int) or n_nodes < 1:
        raise UserError(f"trainer.num_nodes={n_nodes} must be a whole number from 1")
    is_ddp = str(strategy).startswith("ddp") and not strategy.endswith(("spawn", "fork", "notebook"))
    if strategy not in ("auto", SHARDED) and not is_ddp:
        raise UserError(f"trainer.strategy={strategy} must be auto, ddp or {SHARDED}")
    if strategy == SHARDED and device == "mps":
        raise UserError(f"trainer.strategy={SHARDED} is for CUDA and the CPU: Apple's GPU is alone in its machine")
    if strategy == SHARDED and str(precision).startswith("16"):
        raise UserError(f"trainer.precision={precision} is not possible with {SHARDED}: use bf16-mixed or 32-true")
    n_devices = _count(trainer["devices"], device)
    name = default_precision(device) if precision is None else SHORT_PRECISIONS.get(str(precision), str(precision))
    if name not in possible_precisions(device):
        possible = ", ".join(possible_precisions(device))
        raise UserError(f"trainer.precision={precision} is not possible on {device} here: use {possible}")
    return Hardware(device, n_devices * n_nodes, name, is_sharded=strategy == SHARDED, n_nodes=n_nodes)


def rows_per_micro_batch(*, batch_size: int, micro_batch_size: int | None, n_ranks: int) -> int:
    """Sequences that one device holds at once. Raises UserError if the numbers do not divide."""
    share, rest = divmod(batch_size, n_ranks)
    if rest:
        raise UserError(f"batch_size={batch_size} is not divisible by the {n_ranks} devices that share it")
    rows = micro_batch_size or share
    if share % rows != 0:
        of = f"batch_size={batch_size}" if n_ranks == 1 else f"batch_size={batch_size} / {n_ranks} devices = {share}"
        raise UserError(f"{of} is not divisible by micro_batch_size={rows}")
    return rows


def device_type(accelerator: str, *, key: str) -> str:
    """cpu, cuda or mps. Raises UserError if this machine lacks it; `key` names the setting."""
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    best = next(device for device in has if has[device])
    if accelerator == "auto" or (accelerator == "gpu" and best != "cpu"):
        return best
    if accelerator not in (*has, "gpu"):
        raise UserError(f"{key}={accelerator} must be auto, cpu, gpu, cuda or mps")
    if not has.get(accelerator, False):
        group = key.partition(".")[0]  # `trainer` of `trainer.accelerator`: its choices are named like the devices
        raise UserError(f"{key}={accelerator}: torch sees no such device on this machine; use {group}=auto")
    return accelerator


def _count(devices: Any, device: str) -> int:
    """How many devices `auto`, a number, or a list of device numbers are."""
    available = {"cpu": 2**20, "mps": 1, "cuda": torch.cuda.device_count()}[device]  # a CPU has as many as one likes
    if devices in ("auto", "-1", -1):
        return 1 if device == "cpu" else available
    numbers = devices if isinstance(devices, list) else range(int(devices)) if str(devices).isdigit() else ()
    if numbers and all(number in range(available) for number in numbers):
        return len(numbers)
    here = "" if device == "cpu" else f"; this machine has {available} {device} device(s)"
    raise UserError(f"trainer.devices={devices} must be auto, a number from 1, or a list of device numbers{here}")


def possible_precisions(device: str) -> list[str]:
    """Lightning's names of the precisions that this machine's cpu, cuda or mps can train in."""
    return [name for name in PRECISIONS[device] if not name.startswith("bf16") or _has_bf16(device)]


def default_precision(device: str) -> str:
    """bf16-mixed on CUDA hardware that has it, 32-true elsewhere."""
    return "bf16-mixed" if device == "cuda" and _has_bf16(device) else "32-true"


def check_weights_precision(precision: int | str, device: str) -> None:
    """Raises UserError if weights are to be kept in bf16 on a device that only emulates it."""
    if str(precision) == "bf16" and not _has_bf16(device):
        raise UserError(f"precision=bf16 is not possible on {device} here: its hardware has none, use precision=32")


def _has_bf16(device: str) -> bool:
    """In hardware, for CUDA. torch has it on every CPU, and wherever it has MPS (macOS 14)."""
    return device != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def warn_of_emulation(hardware: Hardware) -> None:
    """Say so if a CPU computes in bf16 without instructions for it: those of x86, and of Arm."""
    has = torch.cpu.get_capabilities()
    emulates = not any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    if hardware.accelerator == "cpu" and hardware.precision.startswith("bf16") and emulates:
        log.warning("this CPU has no bf16 instructions and emulates them: trainer.precision=32-true is faster")


def check_compiler(device: str) -> None:
    """Compile a sum. Raises UserError if torch's compiler does not work here: on a CPU it needs one for C++."""
    log.info("trying torch's compiler")
    try:
        torch.compile(lambda x: x + x)(torch.ones(2, device=device))
    except Exception as error:  # of many kinds
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"compile=true: torch's compiler does not work here ({reason}); use compile=false") from error
