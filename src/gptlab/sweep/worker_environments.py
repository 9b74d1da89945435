"""The environment variables of each worker, which divide this machine between trials that run at the same time."""

import os

import torch

from gptlab.errors import UserError
from gptlab.training.devices import Hardware

THREADS = "OMP_NUM_THREADS"
GPUS = "CUDA_VISIBLE_DEVICES"


def worker_environments(n_jobs: int, hardware: Hardware, *, devices: object) -> list[dict[str, str]]:
    """One environment for each of `n_jobs` workers, with GPUs of its own and a share of the CPU threads.

    Args:
        n_jobs: trials that run at the same time. Raises UserError if there are fewer devices.
        hardware: what a single trial runs on.
        devices: `trainer.devices`, as it was set.
    """
    if n_jobs == 1:
        return [{}]
    n_cores = available_cores()
    if hardware.accelerator == "mps":
        raise UserError(f"hydra.sweeper.n_jobs={n_jobs}: this machine has 1 mps device")
    if hardware.accelerator == "cpu" and n_jobs > n_cores:
        raise UserError(f"hydra.sweeper.n_jobs={n_jobs}: this machine has {n_cores} CPU core(s)")
    ranks = hardware.n_ranks if hardware.accelerator == "cpu" else 1
    threads = {} if THREADS in os.environ else {THREADS: str(max(1, n_cores // (n_jobs * ranks)))}
    if hardware.accelerator == "cpu":
        return [threads] * n_jobs
    return [{GPUS: ",".join(gpus), **threads} for gpus in _shares_of_gpus(n_jobs, hardware, devices)]


def _shares_of_gpus(n_jobs: int, hardware: Hardware, devices: object) -> list[list[str]]:
    if isinstance(devices, list) or "," in str(devices):
        raise UserError(f"trainer.devices={devices} names devices: with n_jobs={n_jobs}, set a number of devices")
    visible = [name for name in os.environ.get(GPUS, "").split(",") if name]
    visible = visible or [str(number) for number in range(torch.cuda.device_count())]
    each = max(1, len(visible) // n_jobs) if str(devices) in ("auto", "-1") else hardware.n_ranks
    if n_jobs * each > len(visible):
        of = "" if each == 1 else f" of {each} devices each"
        raise UserError(f"hydra.sweeper.n_jobs={n_jobs}{of}: this machine has {len(visible)} cuda device(s)")
    return [visible[worker * each : (worker + 1) * each] for worker in range(n_jobs)]


def available_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
