"""What the run computes on: checked before anything heavy is imported or read."""

from dataclasses import dataclass
from typing import Any

import torch

from gptlab.errors import UserError

SHORT_PRECISIONS = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "64": "64-true"}
PRECISIONS = {
    "cpu": ("32-true", "bf16-mixed", "bf16-true", "64-true"),  # fp16 has no fast kernels on a CPU
    "mps": ("32-true", "16-mixed", "bf16-mixed"),
    "cuda": ("32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true"),
}


@dataclass(frozen=True)
class Hardware:
    """The resolved answer to accelerator, devices and precision."""

    accelerator: str
    n_ranks: int
    precision: str


def resolve(trainer: dict[str, Any]) -> Hardware:
    """Fill in `auto` and check that this machine has what is asked for.

    Args:
        trainer: settings of Lightning's Trainer, of which these are looked at:
            accelerator (auto, cpu, gpu, cuda or mps); devices (auto, a number, or a list of device numbers); num_nodes;
            precision (one of Lightning's names, or None for the device's safe default: bf16-mixed where CUDA has it in
            hardware, 32-true elsewhere); strategy (auto or a kind of ddp: others spread one copy of the model over
            devices, or start processes in another way, and a step that clips a whole copy would be wrong).

    Raises:
        UserError: on an accelerator, a number of devices or a precision that this machine lacks.
    """
    missing = [name for name in ("accelerator", "devices", "num_nodes", "strategy", "precision") if name not in trainer]
    if missing:
        raise UserError(f"trainer.{missing[0]} is missing: every file of conf/trainer sets it")
    strategy, num_nodes = trainer["strategy"], trainer["num_nodes"]
    device = device_type(trainer["accelerator"], key="trainer.accelerator")
    n_devices = _count(trainer["devices"], device)
    if not isinstance(num_nodes, int) or num_nodes < 1:
        raise UserError(f"trainer.num_nodes={num_nodes} must be a whole number from 1")
    if strategy != "auto" and (not str(strategy).startswith("ddp") or strategy.endswith(("spawn", "fork", "notebook"))):
        raise UserError(f"trainer.strategy={strategy} must be auto or ddp: a step needs a whole copy of the model")
    return Hardware(device, n_devices * num_nodes, _precision(trainer["precision"], device))


def rows_per_micro_batch(*, batch_size: int, micro_batch_size: int | None, n_ranks: int) -> int:
    """How many sequences one device holds at once. Raises UserError where the numbers do not divide."""
    if batch_size % n_ranks != 0:
        raise UserError(f"batch_size={batch_size} is not divisible by the {n_ranks} devices that share it")
    share = batch_size // n_ranks
    if micro_batch_size is None:
        return share
    if share % micro_batch_size != 0:
        of = f"batch_size={batch_size}" if n_ranks == 1 else f"batch_size={batch_size} / {n_ranks} devices = {share}"
        raise UserError(f"{of} is not divisible by micro_batch_size={micro_batch_size}")
    return micro_batch_size


def device_type(accelerator: str, *, key: str) -> str:
    """cpu, cuda or mps. Raises UserError where this machine lacks what is asked for; `key` names the setting."""
    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    best = next(device for device in ("cuda", "mps", "cpu") if has[device])
    if accelerator == "auto":
        return best
    if accelerator == "gpu":
        if best == "cpu":
            raise UserError(f"{key}=gpu: torch sees no GPU on this machine; use {_group(key)}=cpu")
        return best
    if accelerator not in has:
        raise UserError(f"{key}={accelerator} must be auto, cpu, gpu, cuda or mps")
    if not has[accelerator]:
        raise UserError(f"{key}={accelerator}: torch sees no such device on this machine; use {_group(key)}=auto")
    return accelerator


def _group(key: str) -> str:
    """`trainer` for `trainer.accelerator`: its choices are named like the devices."""
    return key.partition(".")[0]


def _count(devices: Any, device: str) -> int:
    available = {"cpu": None, "mps": 1, "cuda": torch.cuda.device_count()}[device]
    if isinstance(devices, str) and devices not in ("auto", "-1"):
        if not all(part.strip().isdigit() for part in devices.split(",")):
            raise UserError(f"trainer.devices={devices} must be auto, a number, or a list of device numbers")
        devices = int(devices) if devices.isdigit() else [int(part) for part in devices.split(",")]
    if devices in ("auto", "-1", -1):
        return available if available is not None else 1
    if isinstance(devices, list):
        missing = [number for number in devices if available is not None and number not in range(available)]
        if missing or not devices:
            raise UserError(f"trainer.devices={devices}: this machine has {device} devices 0 to {(available or 1) - 1}")
        return len(devices)
    if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
        raise UserError(f"trainer.devices={devices} must be auto, a number from 1, or a list of device numbers")
    if available is not None and devices > available:
        raise UserError(f"trainer.devices={devices}: this machine has {available} {device} device(s)")
    return devices


def possible_precisions(device: str) -> list[str]:
    """Lightning's names of those that training on this machine's cpu, cuda or mps may use."""
    return [name for name in PRECISIONS[device] if not name.startswith("bf16") or _has_bf16(device)]


def default_precision(device: str) -> str:
    """The safe one: bf16-mixed where CUDA has it in hardware, 32-true elsewhere."""
    return "bf16-mixed" if device == "cuda" and _has_bf16(device) else "32-true"


def check_weights_precision(precision: int | str, device: str) -> None:
    """Raises UserError where weights are to be kept in bf16 on a device that only emulates it."""
    if str(precision) == "bf16" and not _has_bf16(device):
        raise UserError(f"precision=bf16 is not possible on {device} here: its hardware has none, use precision=32")


def _has_bf16(device: str) -> bool:
    """In hardware, where it is a GPU of NVIDIA's; torch has it on every CPU, and wherever it has MPS (macOS 14)."""
    return device != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def _precision(precision: str | int | None, device: str) -> str:
    if precision is None:
        return default_precision(device)
    name, possible = SHORT_PRECISIONS.get(str(precision), str(precision)), possible_precisions(device)
    if name not in possible:
        raise UserError(f"trainer.precision={precision} is not possible on {device} here: use {', '.join(possible)}")
    return name
