"""`gptlab doctor`, end to end."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from conftest import ROOT, Result
from gptlab.cli import doctor
from gptlab.tokenizer import gpt2
from gptlab.training import device_check, devices
from local_hub import LocalHub

Command = Callable[..., Result]


@pytest.fixture(autouse=True)
def only_the_local_hub(hub: LocalHub) -> None:
    """The Hub is the local one."""


@pytest.fixture
def without_vocabulary(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(workplace / "nothing"))


def facts(result: Result) -> dict[str, str]:
    """Name and value of each line; every value begins in the same column."""
    assert result.status == 0, result.err
    assert result.err == ""
    return {line[:18].strip(): line[18:] for line in result.out.splitlines()}


def test_it_says_what_the_machine_has(gptlab: Command, workplace: Path) -> None:
    before = {*workplace.parent.rglob("*")}
    found = facts(gptlab("doctor"))
    assert {*workplace.parent.rglob("*")} == before, "nothing is written"
    for name in ("python", "system", "cpu", "cpu cores", "disk here", "token cache", "Hub cache"):
        assert found[name], name
    assert found["torch"] == torch.__version__
    assert found["python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert found["cpu precisions"].split(", ") == ["32-true (default)", *devices.PRECISIONS["cpu"][1:]]
    assert found["Hub"] == "may be asked"
    assert all(value == value.strip() != "" for value in found.values())


def test_nothing_private_is_shown(gptlab: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(workplace))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    result = gptlab("doctor")
    assert "secret" not in result.out
    assert facts(result)["disk here"].startswith("~, ")


def test_a_new_gpu_and_an_old_one(gptlab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name, total_memory, major, minor = "NVIDIA T4", 15 << 30, 7, 5

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: Properties)
    for has_bf16, precisions in (
        (False, "32-true (default), 16-mixed, 16-true, 64-true"),
        (True, "32-true, 16-mixed, bf16-mixed (default), 16-true, bf16-true, 64-true"),
    ):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has_bf16, **_: has)
        found = facts(gptlab("doctor"))
        assert found["cuda 0"] == found["cuda 1"] == "NVIDIA T4, 15.0 GiB, capability 7.5"
        assert found["cuda precisions"] == precisions


@pytest.mark.usefixtures("without_vocabulary")
def test_where_the_vocabulary_would_come_from(
    gptlab: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    def vocabulary() -> str:
        return facts(gptlab("doctor"))["GPT-2 vocabulary"]

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    assert vocabulary() == "not here yet: fetched at its first use"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert facts(gptlab("doctor"))["Hub"] == "HF_HUB_OFFLINE is set: files from the cache only"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(workplace / "merges.txt"))
    assert vocabulary() == "in the Hub's cache"
    (workplace / "nothing").mkdir()
    (workplace / "nothing" / gpt2.TIKTOKENS_FILE).write_bytes(b"")
    assert vocabulary() == "in tiktoken's cache"


def test_from_a_fresh_process_without_lightning_and_soon(workplace: Path) -> None:
    began = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "gptlab", "doctor"],
        cwd=workplace,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src")},
    )
    assert time.monotonic() - began < 30  # two seconds where nothing else runs
    assert "\ncpu " in process.stdout
    for heavy in ("lightning", "torch._inductor", "matplotlib"):
        assert not re.search(rf"\| +{re.escape(heavy)}$", process.stderr, re.MULTILINE), heavy


# -- device= -------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "VOCABULARY", 300)
    monkeypatch.setattr(doctor, "ROWS", 2)


@pytest.mark.usefixtures("quick")
def test_a_device_that_agrees(gptlab: Command) -> None:
    for device in ("cpu", "auto"):
        result = gptlab("doctor", f"device={device}")
        assert result.status == 0, result.err
        number = r"\d+\.\d+"
        agrees = rf"cpu agrees with the CPU: loss {number} / {number}, gradient norm {number} / {number}\n"
        assert re.fullmatch(agrees, result.out)


@pytest.mark.usefixtures("quick")
def test_a_device_that_lies(gptlab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = device_check._copy

    def wrong_copy(model: nn.Module, device: str, dtype: torch.dtype) -> nn.Module:
        copy = copied(model, "cpu", dtype)
        if device == "mps":
            copy.trunk.norm.register_forward_hook(lambda module, inputs, output: output * 1.5)
        return copy

    monkeypatch.setattr(device_check, "_copy", wrong_copy)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    result = gptlab("doctor", "device=mps")
    assert result.status == 1
    assert result.err.startswith("error: mps computes one training step otherwise than the CPU (loss ")
    assert result.err.count("\n") == 1
    assert result.out == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["device=mps"], "device=mps: torch sees no such device on this machine"),
        (["device=tpu"], "device=tpu must be auto, cpu"),
        (["device=3"], "device=3 must be text or null"),
        (["devise=cpu"], "did you mean device?"),
        (["-m", "device=cpu,auto"], "-m is for train"),
    ],
)
def test_what_it_does_not_take(
    gptlab: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    before = {*workplace.rglob("*")}
    result = gptlab("doctor", *arguments)
    assert result.status == 2
    assert words in result.err
    assert result.err.count("\n") == 1
    assert {*workplace.rglob("*")} == before


# -- bf16 where there is none --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "prompt=a", "precision=bf16", "accelerator=gpu"),
        ("evaluate", "data.path=poem.txt", "precision=bf16", "accelerator=cuda"),
        ("train", "trainer=gpu", "trainer.precision=bf16"),
    ],
    ids=lambda command: command[0],
)
def test_bf16_on_a_gpu_without_it_is_refused(
    gptlab: Command, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    result = gptlab(*command)
    assert result.status == 2
    assert result.err.count("\n") == 1
    assert "precision=bf16 is not possible on cuda here" in result.err
