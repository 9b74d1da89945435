"""`gptlab doctor`, end to end."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import Result
from gptlab.cli import doctor
from gptlab.errors import UserError
from gptlab.training import devices

Command = Callable[..., Result]


def facts(result: Result) -> dict[str, str]:
    """Name and value of each line; every value begins in the same column."""
    assert result.status == 0, result.err
    assert result.err == ""
    return {line[:18].strip(): line[18:] for line in result.out.splitlines()}


def test_it_says_what_the_machine_has_and_nothing_private(
    gptlab: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    before = {*workplace.parent.rglob("*")}
    result = gptlab("doctor")
    found = facts(result)
    assert "secret" not in result.out
    assert {*workplace.parent.rglob("*")} == before, "nothing is written"
    for name in ("python", "system", "cpu", "disk here"):
        assert found[name], name
    assert found["torch"] == torch.__version__
    assert found["cpu precisions"].split(", ") == ["32-true (default)", *devices.PRECISIONS["cpu"][1:]]
    assert found["Hub"] == "files are downloaded"
    assert all(value == value.strip() != "" for value in found.values())


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
        assert found["cuda 0"] == found["cuda 1"] == "NVIDIA T4, 15.0 GiB"
        assert found["cuda precisions"] == precisions


def test_a_device_that_agrees(gptlab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "VOCABULARY", 300)
    monkeypatch.setattr(doctor, "CONTEXT", 32)
    result = gptlab("doctor", "device=cpu")
    assert result.status == 0, result.err
    number = r"\d+\.\d+"
    agrees = rf"cpu agrees with the CPU: loss {number} / {number}, gradient norm {number} / {number}\n"
    assert re.fullmatch(agrees, result.out)


def test_a_device_that_lies(gptlab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def differ(*_: object, **__: object) -> None:
        raise UserError("mps computes one training step otherwise than the CPU")

    monkeypatch.setattr(doctor, "compare", differ)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    result = gptlab("doctor", "device=mps")
    assert result.status == 1
    assert (result.out, result.err) == ("", "error: mps computes one training step otherwise than the CPU\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["device=mps"], "device=mps: torch sees no such device on this machine"),
        (["device=tpu"], "device=tpu must be auto, cpu"),
        (["devise=cpu"], "did you mean device?"),
    ],
)
def test_what_it_does_not_take(
    gptlab: Command, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    result = gptlab("doctor", *arguments)
    assert result.status == 2
    assert words in result.err
    assert result.err.count("\n") == 1


def test_bf16_on_a_gpu_without_it_is_refused(gptlab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    result = gptlab("generate", "prompt=a", "precision=bf16", "accelerator=gpu")
    assert result.status == 2
    assert result.err.count("\n") == 1
    assert "precision=bf16 is not possible on cuda here" in result.err
