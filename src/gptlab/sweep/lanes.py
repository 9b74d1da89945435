"""What of the machine each of the trials gets that run side by side."""

import os

import torch

from gptlab.errors import UserError
from gptlab.training.devices import Hardware

THREADS = "OMP_NUM_THREADS"
GPUS = "CUDA_VISIBLE_DEVICES"


def lanes(n_jobs: int, hardware: Hardware, *, devices: object) -> list[dict[str, str]]:
    """An environment for each of the processes that run at once: GPUs of its own, and its share of the CPU's threads.

    Args:
        n_jobs: how many they are.
        hardware: what one trial runs on, were it alone.
        devices: `trainer.devices`, as it was set.

    Raises:
        UserError: where there are more of them than devices.
    """
    if not isinstance(n_jobs, int) or isinstance(n_jobs, bool) or n_jobs < 1:
        raise UserError(f"hydra.sweeper.n_jobs={n_jobs} must be a whole number, at least 1")
    if n_jobs == 1:
        return [{}]  # all of the machine
    gpus = _shares_of_gpus(n_jobs, hardware, devices)
    threads = _shares_of_threads(n_jobs, hardware)
    return [{**gpu, **threads} for gpu in gpus]


def _shares_of_gpus(n_jobs: int, hardware: Hardware, devices: object) -> list[dict[str, str]]:
    if hardware.accelerator == "mps":
        raise UserError(f"hydra.sweeper.n_jobs={n_jobs}: this machine has 1 mps device")
    if hardware.accelerator != "cuda":
        return [{}] * n_jobs
    if isinstance(devices, list) or "," in str(devices):
        raise UserError(f"trainer.devices={devices} names devices: with n_jobs={n_jobs}, say how many each trial gets")
    visible = [name for name in os.environ.get(GPUS, "").split(",") if name]
    visible = visible or [str(number) for number in range(torch.cuda.device_count())]
    takes_what_there_is = str(devices) in ("auto", "-1")
    each = max(1, len(visible) // n_jobs) if takes_what_there_is else hardware.n_ranks
    if n_jobs * each > len(visible):
        of = "" if each == 1 else f" of {each} devices each"
        raise UserError(f"hydra.sweeper.n_jobs={n_jobs}{of}: this machine has {len(visible)} cuda device(s)")
    return [{GPUS: ",".join(visible[lane * each : (lane + 1) * each])} for lane in range(n_jobs)]


def _shares_of_threads(n_jobs: int, hardware: Hardware) -> dict[str, str]:
    cores = n_cores()
    if hardware.accelerator == "cpu" and n_jobs > cores:
        raise UserError(f"hydra.sweeper.n_jobs={n_jobs}: this machine has {cores} CPU core(s)")
    if THREADS in os.environ:
        return {}
    ranks = hardware.n_ranks if hardware.accelerator == "cpu" else 1
    return {THREADS: str(max(1, cores // (n_jobs * ranks)))}


def n_cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
