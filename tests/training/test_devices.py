import pytest
import torch

from gptlab.errors import UserError
from gptlab.training.devices import resolve, rows_per_micro_batch, warn_of_emulation

CPU = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": None}


@pytest.mark.parametrize(("given", "name"), [(None, "32-true"), ("bf16", "bf16-mixed"), (32, "32-true")])
def test_the_default_precision_of_a_cpu_and_short_names(given: str | int | None, name: str) -> None:
    assert resolve({**CPU, "precision": given}).precision == name


@pytest.mark.parametrize(("capabilities", "warns"), [({"avx2": True}, True), ({"avx512_bf16": True}, False)])
def test_a_cpu_that_only_emulates_bf16_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capabilities: dict[str, bool], warns: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    with caplog.at_level("WARNING", logger="gptlab"):
        warn_of_emulation(resolve({**CPU, "precision": "32-true"}))
        assert caplog.messages == []
        warn_of_emulation(resolve({**CPU, "precision": "bf16-mixed"}))
    assert [message.startswith("this CPU has no bf16 instructions") for message in caplog.messages] == [True] * warns


def test_ranks_are_devices_times_nodes() -> None:
    assert resolve({**CPU, "devices": 2, "num_nodes": 3}).n_ranks == 6
    assert resolve({**CPU, "devices": "auto"}).n_ranks == 1
    assert resolve({**CPU, "devices": [0, 1]}).n_ranks == 2


def test_cuda_takes_bf16_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for has_bf16, precision in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has_bf16, **_: has)
        hardware = resolve({**CPU, "accelerator": "auto", "devices": "auto"})
        assert (hardware.accelerator, hardware.n_ranks, hardware.precision) == ("cuda", 4, precision)
    with pytest.raises(UserError, match="precision=bf16-mixed is not possible on cuda"):
        resolve({**CPU, "accelerator": "gpu", "precision": "bf16-mixed"})
    with pytest.raises(UserError, match=r"devices=5 .*; this machine has 4 cuda"):
        resolve({**CPU, "accelerator": "gpu", "devices": 5})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accelerator": "tpu"}, "trainer.accelerator=tpu must be auto, cpu"),
        ({"precision": "16-mixed"}, "trainer.precision=16-mixed is not possible on cpu"),
        ({"precision": "fp8"}, "trainer.precision=fp8 is not possible"),
        ({"devices": 0}, "trainer.devices=0 must be auto, a number from 1"),
        ({"devices": "two"}, "trainer.devices=two must be"),
        ({"strategy": "fsdp"}, "trainer.strategy=fsdp must be auto, ddp or fsdp2"),
        ({"num_nodes": 0}, "trainer.num_nodes=0"),
    ],
)
def test_what_this_machine_lacks_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve({**CPU, **changes})


def test_micro_batches_divide_the_share_of_a_device() -> None:
    assert rows_per_micro_batch(batch_size=12, micro_batch_size=None, n_ranks=2) == 6
    assert rows_per_micro_batch(batch_size=12, micro_batch_size=3, n_ranks=2) == 3
    with pytest.raises(UserError, match="batch_size=12 is not divisible by the 5 devices"):
        rows_per_micro_batch(batch_size=12, micro_batch_size=None, n_ranks=5)
    with pytest.raises(UserError, match="batch_size=12 / 2 devices = 6 is not divisible by micro_batch_size=4"):
        rows_per_micro_batch(batch_size=12, micro_batch_size=4, n_ranks=2)
