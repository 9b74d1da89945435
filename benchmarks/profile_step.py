"""Where the time of a training step goes, by kind, beside the least that this machine needs for each kind.

    python benchmarks/profile_step.py                                  # GPT-2 small, 4 x 256 tokens, fp32
    python benchmarks/profile_step.py --precision bf16 --batch 8 --context 1024
    python benchmarks/profile_step.py --device cuda --precision bf16 --batch 16 --context 1024

The whole of `gptlab train` runs; torch.profiler watches its last steps. An operation belongs to the first kind that
fits. The least time of a kind is its arithmetic at this machine's speed of large matrix products, or the bytes that it
must read and write at the speed of copying; both are measured here. `Python` is what no operation of torch accounts
for: dispatch, Lightning, loggers. On CUDA the kinds are times of kernels, and `Python` is when the device is idle.
"""

import argparse
import json
import re
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.profilers import Profiler
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

import harness
import train_step

KINDS = {
    "optimizer": r"_fused_adamw|_foreach|Optimizer|linalg_vector_norm",
    "embeddings": r"embedding",
    "head and loss": "vocabulary",  # an operation on a tensor with a dimension of this size
    "attention": r"attention|_sdp|flash|fmha",
    "matrix products": r"::(mm|addmm|bmm|matmul|linear|mkldnn_linear|_addmm_activation)$|gemm",
    "norms, GELU": r"layer_norm|gelu",
    "copies, casts": r"::(copy_|_to_copy|fill_|zero_|cat|clone|contiguous)$|Memcpy|Memset",
    "data": r"dataloader_next",
    "compiled kernels": r"triton|cpp_fused|[cC]ompiled",
    "other arithmetic": r"^aten::",
}
PYTHON = "Python"


def kind_of(name: str, shapes: list[Any], vocabulary: int) -> str:
    """Of an operation, by its name and the shapes of its inputs."""
    if name.startswith("[") and "dataloader_next" not in name:  # Lightning's
        return PYTHON
    for kind, pattern in KINDS.items():
        on_logits = kind == "head and loss" and any(vocabulary in shape for shape in shapes if isinstance(shape, list))
        if on_logits or re.search(pattern, name):
            return kind
    return PYTHON


class Spans(Profiler):
    """Names what Lightning does in torch's profile."""

    def __init__(self) -> None:
        super().__init__()
        self.open: dict[str, record_function] = {}

    def start(self, action_name: str) -> None:
        self.open[action_name] = record_function(action_name)
        self.open[action_name].__enter__()

    def stop(self, action_name: str) -> None:
        if action_name in self.open:
            self.open.pop(action_name).__exit__(None, None, None)


class Profile(L.Callback):
    """Profiles the last steps of a run, and writes the milliseconds of a step by kind."""

    def __init__(self, *, path: str, n_steps: int, vocabulary: int) -> None:
        self.path, self.n_steps, self.vocabulary = Path(path), n_steps, vocabulary

    def setup(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        trainer.profiler = Spans()
        self.on_cuda = trainer.strategy.root_device.type == "cuda"

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self.on_cuda:
            torch.cuda.synchronize()
        if trainer.global_step == trainer.max_steps - self.n_steps:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.on_cuda else [])]
            self.profile = profile(activities=activities, record_shapes=True)
            self.profile.start()
            self.began = time.perf_counter()
        elif trainer.global_step == trainer.max_steps:
            wall = 1e3 * (time.perf_counter() - self.began) / self.n_steps
            self.profile.stop()
            self.path.write_text(json.dumps(self.by_kind(wall)))

    def by_kind(self, wall: float) -> dict[str, float]:
        """Milliseconds of a step; `Python` is what is left of the wall's."""
        found: dict[str, float] = defaultdict(float)
        for event in self.profile.key_averages(group_by_input_shape=True):
            if event.device_type == DeviceType.CPU:  # a kernel's time is also that of the operation that launched it
                spent = event.self_device_time_total if self.on_cuda else event.self_cpu_time_total
                found[kind_of(event.key, event.input_shapes, self.vocabulary)] += spent / 1e3 / self.n_steps
        found.pop(PYTHON, None)
        return {**found, PYTHON: wall - sum(found.values())}


class PeakMemory(L.Callback):
    """Writes the most memory that tensors of a run have had on a CUDA device, in MB."""

    def __init__(self, *, path: str) -> None:
        self.path = Path(path)

    def on_train_end(self, *_: Any) -> None:
        self.path.write_text(str(torch.cuda.max_memory_allocated() / 1e6))


def hardware(device: str, precision: str) -> tuple[float, float]:
    """What the machine can do: FLOP/s of large matrix products in this precision, and bytes/s of copies."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    side = 8192 if device == "cuda" else 2048
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    source = torch.randn(2**28 if device == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    product = _seconds(lambda: torch.mm(a, b), device)
    copy = _seconds(lambda: target.copy_(source), device)
    return 2 * side**3 / product, 2 * source.nbytes / copy


def _seconds(do: Any, device: str) -> float:
    """The best of some times."""
    times = []
    for _ in range(8):
        began = time.perf_counter()
        do()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)


def limits(sizes: argparse.Namespace) -> dict[str, float]:
    """The least milliseconds of a step for each kind; 0 if nothing must be done."""
    flops, bandwidth = hardware(sizes.device, sizes.precision)
    print(f"this machine: {flops / 1e12:.3g} TFLOP/s in matrix products, {bandwidth / 1e9:.3g} GB/s in copies\n")
    n, each = sizes.batch * sizes.context, 2 if sizes.precision == "bf16" else 4  # tokens, bytes of an activation
    layers, width, vocabulary = sizes.layers, sizes.width, sizes.vocabulary
    weights = 12 * layers * width**2 + (vocabulary + sizes.context) * width
    arithmetic = {
        "matrix products": 6 * n * 12 * layers * width**2,
        "attention": 6 * n * layers * sizes.context * width,  # the causal half of scores and values, and backward
        "head and loss": 6 * n * vocabulary * width,
    }
    traffic = {
        "norms, GELU": 5 * each * n * width * (2 * layers + 1 + 4 * layers),  # forward 2, backward 3
        "optimizer": 32 * weights,  # weight, gradient and two averages are read, three written, the norm reads again
        "embeddings": 4 * vocabulary * width,  # the gradient
        "copies, casts": 6 * weights if each == 2 else 0,  # weights to bf16
        "other arithmetic": 12 * each * n * width * layers,  # two additions a block, forward and backward
    }
    seconds = {kind: n_flops / flops for kind, n_flops in arithmetic.items()}
    seconds |= {kind: n_bytes / bandwidth for kind, n_bytes in traffic.items()}
    return {kind: 1e3 * seconds.get(kind, 0.0) for kind in (*KINDS, PYTHON)}


def measure(sizes: argparse.Namespace) -> dict[str, float]:
    """Milliseconds by kind, of a run."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "kinds.json")
        settings = {"_target_": "profile_step.Profile", "path": path, "n_steps": 2, "vocabulary": sizes.vocabulary}
        node = [f"+callbacks.profile.{name}={value}" for name, value in settings.items()]
        harness.gptlab("train", *train_step.words(sizes), *node, f"run_dir={place}/run")
        return json.loads(path.read_text())


def main() -> None:
    sizes = train_step.parser(__doc__, {**train_step.GPT2, "steps": 6, "rounds": 3}).parse_args()
    least = limits(sizes)
    with train_step.data(sizes):
        rounds = [measure(sizes) for _ in range(sizes.rounds)]
    table = harness.Table(sizes, {"ms": ",.1f", "share %": ".1f", "least ms": ",.1f"}, ratio_of=[])
    for kind, limit in [*least.items(), ("all", sum(least.values()))]:
        walls = [sum(kinds.values()) for kinds in rounds]
        spent = walls if kind == "all" else [kinds.get(kind, 0.0) for kinds in rounds]
        found = [
            {"ms": ms, "share %": 100 * ms / wall, "least ms": limit} for ms, wall in zip(spent, walls, strict=True)
        ]
        if limit or any(spent):
            table.add("", kind, found, {})


if __name__ == "__main__":
    main()
