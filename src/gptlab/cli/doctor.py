"""`gptlab doctor`: what this machine has, for bug reports; or whether a device computes as the CPU does.

It writes nothing, and imports no Lightning.
"""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version

import torch
from omegaconf import DictConfig

from gptlab import build
from gptlab.cli.compose import compose, run_command
from gptlab.errors import UserError
from gptlab.objective.next_token import NextToken
from gptlab.training.device_check import compare
from gptlab.training.devices import default_precision, device_type, possible_precisions

PACKAGES = "gptlab torch lightning hydra-core numpy tiktoken tokenizers huggingface_hub safetensors tensorboard optuna"
VOCABULARY, CONTEXT, ROWS = 50_257, 256, 6
"""Sizes of the comparison. The vocabulary is GPT-2's, because MPS goes wrong with large logits."""


def doctor(cfg: DictConfig) -> int:
    """Print a line for each fact, or compare one device with the CPU."""
    if cfg.device is not None:
        return _compare(device_type(str(cfg.device), key="device"))
    for name, value in _facts():
        print(f"{name:18}{value}", flush=True)
    return 0


main = partial(run_command, doctor, config_name="doctor")


def _compare(device: str) -> int:
    """One step of a small GPT with random weights, in fp32: 0 if the device agrees with the CPU, else 1."""
    torch.manual_seed(0)
    config = compose(["model.d_model=64", "model.n_heads=2", f"context_length={CONTEXT}"])
    ids = torch.randint(VOCABULARY, (ROWS, CONTEXT + 1))
    batch = ids[:, :-1], ids[:, 1:]
    try:
        found = compare(build.model(config, VOCABULARY), NextToken(), batch, device=device, precision="32-true")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{device} agrees with the CPU: {found}")
    return 0


def _facts() -> Iterator[tuple[str, str]]:
    """Names and values; nothing of them is private."""
    from huggingface_hub import constants

    yield "python", platform.python_version()
    yield "system", platform.platform()
    for package in PACKAGES.split():
        yield package, version(package)
    yield "cpu", f"{platform.machine()}, {os.cpu_count()} cores, torch uses {torch.get_num_threads()}"
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for number in range(n_gpus):
        gpu = torch.cuda.get_device_properties(number)
        yield f"cuda {number}", f"{gpu.name}, {_gib(gpu.total_memory)}"
    for device, is_there in {"cpu": True, "cuda": n_gpus > 0, "mps": torch.backends.mps.is_available()}.items():
        default = default_precision(device)
        names = (f"{name} (default)" if name == default else name for name in possible_precisions(device))
        yield f"{device} precisions", ", ".join(names) if is_there else f"torch sees no {device} device"
    yield "disk here", f"{_gib(shutil.disk_usage('.').free)} free"
    yield "Hub", "files from the cache only (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "files are downloaded"


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / (1 << 30):,.1f} GiB"
