"""The comparison of a device with the CPU finds wrong devices, and accepts right ones."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conftest import TINY, Result
from gptlab.errors import UserError
from gptlab.model import GPT
from gptlab.objective import Batch
from gptlab.objective.next_token import NextToken
from gptlab.training import device_check, devices
from gptlab.training.device_check import compare
from tiny_gpt import tiny_gpt

Change = Callable[[Tensor], Tensor]


def some_gpt_and_batch() -> tuple[GPT, Batch]:
    model = tiny_gpt(context_length=8, dropout=0.5)
    ids = torch.randint(model.vocab_size, (3, 9))
    return model, (ids[:, :-1], ids[:, 1:])


class WrongHead(nn.Module):
    """A head whose logits, or whose gradients, are not what they should be."""

    def __init__(self, head: nn.Module, forward: Change, backward: Change) -> None:
        super().__init__()
        self.head, self.change, self.change_backward = head, forward, backward

    def forward(self, hidden: Tensor) -> Tensor:
        logits = self.change(self.head(hidden))
        logits.register_hook(self.change_backward)
        return logits


def same(tensor: Tensor) -> Tensor:
    return tensor


def wrong_half(logits: Tensor) -> Tensor:
    """As on MPS, if a product is too large: after some row it holds something else."""
    return torch.cat([logits[:1], logits[1:].flip(-1)])


def make_mps(monkeypatch: pytest.MonkeyPatch, forward: Change = same, backward: Change = same) -> None:
    """A device `mps`, which is the CPU, except for what its head computes."""
    move = device_check._copy

    def copied(model: nn.Module, to: str, dtype: torch.dtype) -> nn.Module:
        copied = move(model, "cpu", dtype)
        if to == "mps":
            copied.head = WrongHead(copied.head, forward, backward)
        return copied

    monkeypatch.setattr(device_check, "_copy", copied)


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed", "bf16-true", "16-mixed"])
def test_a_right_device_passes_with_the_loss_and_gradient_of_autograd(precision: str) -> None:
    model, (inputs, targets) = some_gpt_and_batch()
    found = compare(model, NextToken(), (inputs, targets), device="cpu", precision=precision)
    model.eval()
    loss = nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    loss.backward()
    norm = nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()])
    on_cpu = [float(number) for number in re.findall(r"/ ([\d.]+)", found)]
    assert on_cpu == pytest.approx([loss.item(), norm.item()], rel=1e-5)


@pytest.mark.parametrize(
    ("forward", "backward"),
    [(wrong_half, same), (same, lambda gradient: gradient * 1.1), (lambda logits: logits * math.nan, same)],
    ids=["loss", "gradient", "nan"],
)
def test_a_wrong_device_is_found(monkeypatch: pytest.MonkeyPatch, forward: Change, backward: Change) -> None:
    make_mps(monkeypatch, forward, backward)
    model, batch = some_gpt_and_batch()
    with pytest.raises(UserError, match=r"^mps computes one training step otherwise than the CPU \(loss .* / .*\)"):
        compare(model, NextToken(), batch, device="mps", precision="32-true")


def test_model_gradients_and_random_numbers_stay_as_they_are() -> None:
    model, batch = some_gpt_and_batch()
    NextToken()(model, batch).sum.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    random = torch.get_rng_state()
    compare(model, NextToken(), batch, device="cpu", precision="bf16-true")
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert model.head.weight.dtype == torch.float32
    torch.testing.assert_close({n: p.grad for n, p in model.named_parameters()}, gradients, rtol=0, atol=0)


def test_training_on_mps_begins_with_the_check(
    gptlab: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, workplace: Path
) -> None:
    """The hardware is called mps, and Lightning trains on the CPU."""
    from gptlab.cli import parts

    make_trainer, cpu = parts.make_trainer, devices.Hardware("cpu", 1, "32-true")
    monkeypatch.setattr(devices, "resolve", lambda settings: devices.Hardware("mps", 1, "32-true"))
    monkeypatch.setattr(parts, "make_trainer", lambda make, **ours: make_trainer(make, **{**ours, "hardware": cpu}))
    monkeypatch.setattr("gptlab.cli.costs.peak_flops", lambda device, precision: (1e12, "of no card"))
    make_mps(monkeypatch, wrong_half)
    refused = gptlab("train", *TINY, "run_dir=run")
    assert refused.status == 2
    assert "error: mps computes one training step otherwise than the CPU" in refused.err
    assert not (workplace / "run").exists()
    unchecked = gptlab("train", *TINY, "run_dir=run", "check_device=false", "max_steps=1", "schedule.warmup_steps=0")
    assert unchecked.status == 0, unchecked.err
