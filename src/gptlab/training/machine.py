"""What a device has: memory, and the speed of its matrix products."""

import os
import re
import time
from functools import cache
from pathlib import Path

import torch

from gptlab.training.device_check import DTYPES

DENSE_HALF_TERAFLOPS = {  # by a part of the device's name
    "B200": 2250,  # https://www.nvidia.com/en-us/data-center/hgx/
    "H200": 989.5,  # https://www.nvidia.com/en-us/data-center/h200/
    "H100 80GB HBM3": 989.5,  # https://www.nvidia.com/en-us/data-center/h100/
    "A100": 312,  # https://www.nvidia.com/en-us/data-center/a100/
    "L40S": 362,  # https://www.nvidia.com/en-us/data-center/l40s/
    "L4": 121,  # https://www.nvidia.com/en-us/data-center/l4/
    "A10": 125,  # https://www.nvidia.com/en-us/data-center/products/a10-gpu/
    "T4": 65,  # https://www.nvidia.com/en-us/data-center/tesla-t4/
}
"""Peaks of bf16 and fp16 products without sparsity, from data sheets, most of which print twice as much."""

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
ASSUMED_RESIDENT = 600 << 20  # Python with torch and Lightning


def peak_flops(device: str, precision: str) -> tuple[float, str]:
    """Floating-point operations a second of one device's matrix products, and where the number is from.

    Args:
        device, precision: cpu, cuda or mps; one of Lightning's names.
    """
    dtype = DTYPES[precision.partition("-")[0]][0]
    name = torch.cuda.get_device_name() if device == "cuda" else device
    if device == "cuda" and dtype in (torch.bfloat16, torch.float16):
        for part, tera in DENSE_HALF_TERAFLOPS.items():
            if re.search(rf"\b{part}\b", name):
                return tera * 1e12, f"data sheet of {name}"
    return _measured_flops(device, dtype), f"measured with matrix products on {name}"


@cache
def _measured_flops(device: str, dtype: torch.dtype) -> float:
    size = 1024 if device == "cpu" else 4096
    matrix, best = torch.ones(size, size, device=device, dtype=dtype), float("inf")
    for _ in range(5):
        began = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def memory_bytes(device: str) -> int | None:
    """What training may take: free memory of a GPU, all memory of a machine or its container. None if unknown."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    if device == "mps":
        return torch.mps.recommended_max_memory()
    if not hasattr(os, "sysconf"):  # Windows
        return None
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.exists() else "max"
    everything = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(everything, int(limit)) if limit.isdecimal() else everything


def resident_bytes() -> int:
    """Memory of this process now; an assumption where the system has no /proc."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else ASSUMED_RESIDENT
