"""What a device has: its memory, and the speed of its matrix products."""

from pathlib import Path

import pytest
import torch

from gptlab.training import machine


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H200", 989.5),
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA A10", 125),
        ("Tesla T4", 65),
    ],
)
def test_a_card_has_the_peak_of_its_data_sheet(monkeypatch: pytest.MonkeyPatch, name: str, tera: float) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert machine.peak_flops("cuda", "bf16-mixed") == (tera * 1e12, f"data sheet of {name}")


@pytest.mark.parametrize(
    ("name", "precision"),
    [("NVIDIA L40", "bf16-mixed"), ("NVIDIA H100 PCIe", "bf16-mixed"), ("NVIDIA H200", "32-true")],
)
def test_what_no_table_knows_is_measured(monkeypatch: pytest.MonkeyPatch, name: str, precision: str) -> None:
    on_cpu = torch.ones(4, 4)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    monkeypatch.setattr(torch, "ones", lambda *sizes, device, dtype: on_cpu)
    flops, source = machine.peak_flops("cuda", precision)
    assert flops > 0
    assert source == f"measured with matrix products on {name}"


def test_a_cpu_is_measured() -> None:
    flops, source = machine.peak_flops("cpu", "32-true")
    assert 1e9 < flops < 1e14
    assert source == "measured with matrix products on cpu"


def test_a_container_s_limit_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "CGROUP_LIMIT", limit)
    everything = machine.memory_bytes("cpu")
    assert everything is not None
    assert machine.resident_bytes() < everything
    limit.write_text("max\n")
    assert machine.memory_bytes("cpu") == everything
    limit.write_text("123456789\n")
    assert machine.memory_bytes("cpu") == 123456789
