"""Freed memory stays in the process, on Linux with glibc."""

import gc
import platform
import subprocess
import sys

import pytest

TOUCH = """
import resource
from gptlab.memory import keep_freed_memory
keep_freed_memory()
import torch
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(40 << 20)  # 160 MB: freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults() for _ in range(15)][-1])  # a first few leave small gaps between large blocks
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc gives memory back, others may not")
@pytest.mark.parametrize(("variable", "keeps"), [(None, True), ("0", False)])
def test_later_tensors_use_what_earlier_ones_have_freed(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, keeps: bool
) -> None:
    monkeypatch.delenv("GPTLAB_MALLOC", raising=False)
    if variable is not None:
        monkeypatch.setenv("GPTLAB_MALLOC", variable)
    result = subprocess.run([sys.executable, "-c", TOUCH], capture_output=True, text=True, timeout=60, check=True)
    assert (int(result.stdout) < 100) == keeps, "page faults of a tensor of 160 MB"


def test_the_collector_is_off_for_imports_and_then_as_it_was() -> None:
    from gptlab.memory import no_collection

    assert gc.isenabled()
    with no_collection():
        with no_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from gptlab import memory

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())  # a C library without mallopt, as musl
    memory.keep_freed_memory()
    monkeypatch.setattr(memory.sys, "platform", "win32")
    monkeypatch.setattr(memory.ctypes, "CDLL", None)
    memory.keep_freed_memory()
