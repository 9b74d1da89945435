"""`gptlab doctor`: what this machine has, for bug reports; or whether a device computes as the CPU does.

Writes nothing to disk, and imports no Lightning.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

import torch
from omegaconf import DictConfig
from platformdirs import user_cache_path

from gptlab import build
from gptlab.cli.compose import run_command
from gptlab.errors import UserError
from gptlab.model import GPT, init
from gptlab.model.attention.fused import FusedAttention
from gptlab.network import is_reachable
from gptlab.objective.next_token import NextToken
from gptlab.tokenizer import gpt2
from gptlab.training.device_check import compare
from gptlab.training.devices import default_precision, device_type, possible_precisions

PACKAGES = (
    *("gptlab", "torch", "lightning", "hydra-core", "numpy", "tiktoken", "tokenizers", "huggingface_hub"),
    *("safetensors", "tensorboard", "optuna"),
)
NOT_KNOWN = "not known"
GIB = 1 << 30

VOCABULARY, CONTEXT, ROWS = 50_257, 256, 6
"""Of the comparison's model and batch: GPT-2's vocabulary, for large logits are where MPS has gone wrong."""


def main(arguments: list[str]) -> int:
    """The exit status of one look at the machine."""
    if {"-m", "--multirun"} & {*arguments}:  # Hydra would make a directory for it
        print("error: doctor looks once: leave -m out, and name one device", file=sys.stderr)
        return 2
    return run_command(doctor, config_name="doctor", arguments=arguments)


def doctor(cfg: DictConfig) -> int:
    """Print a line for each fact, or compare one device with the CPU."""
    settings = build.doctor_settings(build.resolve(cfg))
    if settings.device is not None:
        return _compare(device_type(settings.device, key="device"))
    for name, value in _facts():
        print(f"{name:18}{value}", flush=True)
    return 0


def _compare(device: str) -> int:
    """One step of a small GPT with random weights, in fp32: 0 where the device agrees with the CPU, 1 where not."""
    torch.manual_seed(0)
    model = GPT(
        vocab_size=VOCABULARY,
        context_length=CONTEXT,
        n_layers=2,
        n_heads=2,
        d_model=64,
        dropout=0.0,
        qkv_bias=True,
        tie_head=True,
        attention=FusedAttention,
        init=init.gpt2,
    )
    ids = torch.randint(VOCABULARY, (ROWS, CONTEXT + 1))
    try:
        found = compare(model, NextToken(), (ids[:, :-1], ids[:, 1:]), device=device, precision="32-true")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{device} agrees with the CPU: {found}")
    return 0


def _facts() -> Iterator[tuple[str, str]]:
    """Names and values; nothing that is private but paths, and those begin with ~ where they lie in one's home."""
    from huggingface_hub import constants

    yield from _versions()
    yield from _devices()
    yield from _compiler()
    yield "memory", _memory()
    cache = user_cache_path("gptlab")
    yield "disk here", _free(Path.cwd())
    yield "token cache", f"{_tilde(cache)}, {_free(cache)}"
    yield "Hub cache", f"{_tilde(Path(constants.HF_HUB_CACHE))}, {_free(Path(constants.HF_HUB_CACHE))}"
    yield from _network(offline=constants.HF_HUB_OFFLINE, endpoint=constants.ENDPOINT)
    yield "outputs", f"{_tilde(Path.cwd() / 'outputs')}, {_writable(Path('outputs'))}"


# -- software ------------------------------------------------------------------------------------------------------


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", f"{platform.python_version()} ({platform.python_implementation()})"
    yield "system", platform.platform()
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            yield package, "not installed"


def _compiler() -> Iterator[tuple[str, str]]:
    """What generation with compile=true finds on a CPU; torch looks at the same names (cpp.cxx of its inductor)."""
    name = os.environ.get("CXX", {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++"))
    path = shutil.which(name)
    found = "" if path is None else path if name == "cl" else _first_line([path, "--version"])
    yield "compiler", found or f"no {name} that works"
    yield "compile=true", "can be used (generate)" if found else "is refused on a CPU: torch's compiler needs this one"


# -- hardware ------------------------------------------------------------------------------------------------------


def _devices() -> Iterator[tuple[str, str]]:
    yield "cpu", _cpu_name()
    yield "cpu cores", f"{_usable_cores()} of {os.cpu_count()}, torch uses {torch.get_num_threads()}"
    yield "cpu precisions", _precisions("cpu")
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for number in range(n_gpus):
        gpu = torch.cuda.get_device_properties(number)
        yield f"cuda {number}", f"{gpu.name}, {_gib(gpu.total_memory)}, capability {gpu.major}.{gpu.minor}"
    if n_gpus:
        yield "cuda precisions", _precisions("cuda")
    else:
        built_for = f"for CUDA {torch.version.cuda}" if torch.version.cuda is not None else "without CUDA"
        yield "cuda", f"none (torch is built {built_for})"
    if torch.backends.mps.is_available():
        yield "mps", f"{torch.backends.mps.get_name()}, {_gib(torch.mps.recommended_max_memory())} recommended"
        yield "mps precisions", _precisions("mps")
    else:
        yield "mps", "none"


def _precisions(device: str) -> str:
    default = default_precision(device)
    return ", ".join(f"{name} (default)" if name == default else name for name in possible_precisions(device))


def _cpu_name() -> str:
    """As people know it, and the vector instructions that torch uses."""
    name = ""
    if sys.platform == "linux":
        lines = _text(Path("/proc/cpuinfo")).splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    elif sys.platform == "darwin":
        name = _first_line(["sysctl", "-n", "machdep.cpu.brand_string"])
    name = name or platform.processor() or platform.machine() or NOT_KNOWN
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def _usable_cores() -> int | str:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or NOT_KNOWN


def _memory() -> str:
    try:
        return _gib(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # Windows has no such call, some systems not these names
        return NOT_KNOWN


# -- places --------------------------------------------------------------------------------------------------------


def _network(*, offline: bool, endpoint: str) -> Iterator[tuple[str, str]]:
    """Whether the Hub answers, and where GPT-2's vocabulary would come from. Both hosts are asked at once."""
    cached = gpt2.cached_in()
    with ThreadPoolExecutor() as threads:
        hub = threads.submit(lambda: not offline and is_reachable(endpoint))
        tiktoken = threads.submit(lambda: not offline and cached is None and is_reachable(gpt2.TIKTOKENS_HOST))
    try:
        host = urlsplit(endpoint).hostname or "HF_ENDPOINT"  # no more of it: an address may hold a password
    except ValueError:
        host = "HF_ENDPOINT"
    if offline:
        yield "Hub", "not asked: HF_HUB_OFFLINE is set"
    else:
        yield "Hub", f"{host} {'answers' if hub.result() else 'does not answer'}"
    sources = {"tiktoken's server": tiktoken.result(), "the Hub": hub.result()}
    source = next((name for name, answers in sources.items() if answers), None)
    if cached is not None:
        yield "GPT-2 vocabulary", f"in {cached}"
    elif source is not None:
        yield "GPT-2 vocabulary", f"not here yet; {source} answers"
    else:
        yield "GPT-2 vocabulary", "not here, and no server is asked or answers"


def _free(path: Path) -> str:
    try:
        return f"{_gib(shutil.disk_usage(_nearest(path)).free)} free"
    except OSError:
        return f"free space {NOT_KNOWN}"


def _writable(path: Path) -> str:
    return "can be written" if os.access(_nearest(path.absolute()), os.W_OK | os.X_OK) else "cannot be written"


def _nearest(path: Path) -> Path:
    """The path itself, or the first directory above it that is there."""
    return next((place for place in (path, *path.parents) if place.exists()), path)


def _tilde(path: Path) -> str:
    try:
        return str(Path("~", path.relative_to(Path.home())))
    except (ValueError, RuntimeError):  # it lies elsewhere; there is no home
        return str(path)


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / GIB:,.1f} GiB"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _first_line(command: list[str]) -> str:
    """Of what a program prints; nothing where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().partition("\n")[0]
