"""A device that lies is found out, and an honest one is not accused."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conftest import TINY, Result
from gptlab.errors import UserError
from gptlab.model import GPT, init
from gptlab.objective import Batch
from gptlab.objective.next_token import NextToken
from gptlab.training import device_check
from gptlab.training.device_check import compare
from tiny_gpt import PARTS


def small_gpt(*, vocab_size: int = 13, n_layers: int = 1, d_model: int = 8, seed: int = 0) -> GPT:
    torch.manual_seed(seed)
    return GPT(
        vocab_size=vocab_size,
        context_length=8,
        n_layers=n_layers,
        n_heads=2,
        d_model=d_model,
        dropout=0.5,
        qkv_bias=True,
        tie_head=True,
        **{**PARTS, "init": init.textbook},
    )


def some_batch(*, vocab_size: int = 13, rows: int = 3) -> Batch:
    return torch.randint(vocab_size, (rows, 8)), torch.randint(vocab_size, (rows, 8))


class LyingHead(nn.Module):
    """A head whose logits, or whose gradients, are not what they should be."""

    def __init__(self, head: nn.Module, forward: Callable[[Tensor], Tensor], backward: Callable[[Tensor], Tensor]):
        super().__init__()
        self.head = head
        self.lie, self.lie_backward = forward, backward

    def forward(self, hidden: Tensor) -> Tensor:
        logits = self.lie(self.head(hidden))
        logits.register_hook(self.lie_backward)
        return logits


def honest(tensor: Tensor) -> Tensor:
    return tensor


def nan(tensor: Tensor) -> Tensor:
    return tensor * math.nan


def wrong_half(logits: Tensor) -> Tensor:
    """As a product that is too large has been on MPS: beyond some row it holds something else."""
    return torch.cat([logits[:1], logits[1:].flip(-1)])


def make_lie(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    forward: Callable[[Tensor], Tensor] = honest,
    backward: Callable[[Tensor], Tensor] = honest,
) -> None:
    """A device of that name, which is the CPU, but for what its head computes."""
    move = device_check._copy

    def copied(model: nn.Module, to: str, dtype: torch.dtype) -> nn.Module:
        copied = move(model, "cpu", dtype)
        if to == device:
            copied.head = LyingHead(copied.head, forward, backward)
        return copied

    monkeypatch.setattr(device_check, "_copy", copied)


@settings(max_examples=25, deadline=None)
@given(
    vocab_size=st.integers(2, 200),
    n_layers=st.integers(1, 3),
    d_model=st.sampled_from([8, 16, 32]),
    seed=st.integers(0, 1000),
    rows=st.integers(1, 5),
    precision=st.sampled_from(["32-true", "64-true", "bf16-mixed", "bf16-true", "16-mixed"]),
)
def test_an_honest_device_passes(
    vocab_size: int, n_layers: int, d_model: int, seed: int, rows: int, precision: str
) -> None:
    model = small_gpt(vocab_size=vocab_size, n_layers=n_layers, d_model=d_model, seed=seed)
    batch = some_batch(vocab_size=vocab_size, rows=rows)
    found = compare(model, NextToken(), batch, device="cpu", precision=precision)
    assert math.isfinite(found.loss[1])
    assert found.gradient_norm[1] > 0


@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        (wrong_half, honest),
        (honest, lambda gradient: gradient * 1.1),
        (honest, wrong_half),
        (nan, honest),
        (honest, nan),
        (lambda logits: logits * 2, lambda gradient: gradient * 3),
    ],
    ids=["loss", "gradient", "half of a gradient", "nan", "nan gradient", "both"],
)
def test_a_device_that_lies_is_found_out(
    monkeypatch: pytest.MonkeyPatch, forward: Callable[[Tensor], Tensor], backward: Callable[[Tensor], Tensor]
) -> None:
    make_lie(monkeypatch, "mps", forward, backward)
    with pytest.raises(UserError) as refused:
        compare(small_gpt(), NextToken(), some_batch(), device="mps", precision="32-true")
    sentence = str(refused.value)
    assert sentence.startswith("mps computes one training step otherwise than the CPU (loss ")
    assert sentence.count(" / ") == 2
    for way_out in ("update torch", "trainer=cpu", "check_device=false"):
        assert way_out in sentence
    assert "\n" not in sentence


def test_the_sentence_has_the_numbers_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, objective = some_batch(), NextToken()
    expected = compare(small_gpt(), objective, batch, device="cpu", precision="32-true")
    make_lie(monkeypatch, "mps", backward=lambda gradient: gradient * 2)
    with pytest.raises(UserError) as refused:
        compare(small_gpt(), objective, batch, device="mps", precision="32-true")
    loss, norm = f"{expected.loss[1]:.6g}", f"{expected.gradient_norm[1]:.6g}"
    assert f"loss {loss} / {loss}, " in str(refused.value)
    assert f"gradient norm {2 * expected.gradient_norm[1]:.6g} / {norm})" in str(refused.value)


def test_the_step_is_the_one_that_autograd_computes() -> None:
    model, (inputs, targets) = small_gpt(), some_batch()
    found = compare(model, NextToken(), (inputs, targets), device="cpu", precision="32-true")
    model.eval()
    loss = nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    loss.backward()
    norm = nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()])
    assert found.loss == pytest.approx([loss.item()] * 2, rel=1e-5)
    assert found.gradient_norm == pytest.approx([norm.item()] * 2, rel=1e-5)


def test_model_gradients_and_random_numbers_stay_as_they_are() -> None:
    model, batch = small_gpt(), some_batch()
    NextToken()(model, batch).sum.backward()
    model.trunk.norm.eval()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    random = torch.get_rng_state()
    compare(model, NextToken(), batch, device="cpu", precision="bf16-true")
    assert torch.equal(torch.get_rng_state(), random)
    assert modes == {name: module.training for name, module in model.named_modules()}
    torch.testing.assert_close(dict(model.state_dict()), weights, rtol=0, atol=0)
    torch.testing.assert_close({n: p.grad for n, p in model.named_parameters()}, gradients, rtol=0, atol=0)


def test_the_batch_is_cut_to_what_the_cpu_can_afford(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = small_gpt(), []

    class Spy(NextToken):
        def __call__(self, model: nn.Module, batch: Batch):
            sizes.append(len(batch[0]))
            return super().__call__(model, batch)

    a_row = 6 * 8 * sum(parameter.numel() for parameter in model.parameters())
    for budget, rows in ((2.5 * a_row, 2), (0, 1), (100 * a_row, 5)):
        sizes.clear()
        monkeypatch.setattr(device_check, "BUDGET", budget)
        compare(model, Spy(), some_batch(rows=5), device="cpu", precision="32-true")
        assert sizes == [1] * rows + [rows], "the CPU gets them one by one, the device at once"


def test_weights_that_are_no_numbers_are_not_the_device_s_fault() -> None:
    model = small_gpt()
    with torch.no_grad():
        model.trunk.norm.bias[0] = math.nan
    with pytest.raises(UserError, match="the weights that the run starts from are damaged"):
        compare(model, NextToken(), some_batch(), device="cpu", precision="32-true")


@pytest.fixture
def cpu_called_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose hardware is called mps, and which Lightning trains on the CPU."""
    from gptlab.cli import parts
    from gptlab.training import devices

    resolve, make_trainer = devices.resolve, parts.make_trainer
    monkeypatch.setattr(devices, "resolve", lambda settings: devices.Hardware("mps", 1, resolve(settings).precision))
    cpu = devices.Hardware("cpu", 1, "32-true")
    monkeypatch.setattr(parts, "make_trainer", lambda make, **ours: make_trainer(make, **{**ours, "hardware": cpu}))


@pytest.mark.usefixtures("cpu_called_mps")
def test_training_on_mps_begins_with_the_check(
    gptlab: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, workplace: Path
) -> None:
    with monkeypatch.context() as patch:
        make_lie(patch, "mps")
        honest_run = gptlab("train", *TINY, "run_dir=honest")
    assert honest_run.status == 0, honest_run.err
    assert honest_run.out.count("mps agrees with the CPU: loss ") == 1
    assert "mps agrees with the CPU" in (workplace / "honest/train.log").read_text()

    with monkeypatch.context() as patch:
        make_lie(patch, "mps", wrong_half)
        refused = gptlab("train", *TINY, "run_dir=refused")
        unchecked = gptlab("train", *TINY, "run_dir=unchecked", "check_device=false")
    assert refused.status == 2
    assert "error: mps computes one training step otherwise than the CPU" in refused.err
    assert not list((workplace / "refused").rglob("*.ckpt"))
    assert unchecked.status == 0, unchecked.err
    assert "with the CPU" not in unchecked.out
    columns = [(workplace / name / "metrics.csv").read_text().splitlines() for name in ("honest", "unchecked")]
    losses = [[line.split(",")[3] for line in lines] for lines in columns]
    assert losses[0] == losses[1], "the check leaves no trace in what is trained"


def test_a_run_on_the_cpu_is_not_held_against_itself(gptlab: Callable[..., Result]) -> None:
    result = gptlab("train", *TINY)
    assert result.status == 0, result.err
    assert "agrees with the CPU" not in result.out
