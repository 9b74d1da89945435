"""Head and cross-entropy in chunks: loss and gradient are those of torch's cross-entropy over all logits."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gptlab.model.lora import LoRALinear
from gptlab.objective import chunked
from gptlab.objective.base import IGNORED
from gptlab.objective.next_token import NextToken
from tiny_gpt import tiny_gpt

C = 12
Loss = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def _limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a test may change them."""
    for name in ("MOST_LOGITS", "IN_CACHE"):
        monkeypatch.setattr(chunked, name, getattr(chunked, name))


def drawn(seed: int, n_tokens: int, vocab_size: int) -> tuple[Tensor, nn.Linear, Tensor, Tensor]:
    """Hidden states, a head, targets of which a third does not count, and what each loss is multiplied by."""
    torch.manual_seed(seed)
    hidden, head = 3 * torch.randn(2, n_tokens, C), nn.Linear(C, vocab_size, bias=False)
    targets = torch.randint(vocab_size, (2, n_tokens)).masked_fill(torch.rand(2, n_tokens) < 0.3, IGNORED)
    return hidden, head, targets, torch.rand(2, n_tokens)


def with_gradient(loss: Loss, hidden: Tensor, head: nn.Module) -> list[Tensor]:
    """The loss, and the gradients of the hidden states and of the head's parameters."""
    hidden = hidden.detach().requires_grad_()
    head.zero_grad()
    value = loss(hidden, head)
    value.backward()
    gradients = [parameter.grad for parameter in (hidden, *head.parameters()) if parameter.grad is not None]
    return [value.detach(), *(gradient.clone() for gradient in gradients)]


def all_logits(targets: Tensor, factors: Tensor) -> Loss:
    """Of torch's cross-entropy."""

    def loss(hidden: Tensor, head: nn.Module) -> Tensor:
        logits = head(hidden).flatten(0, 1)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        losses = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="none")
        return (losses * factors.flatten()).sum()

    return loss


def in_chunks(targets: Tensor, factors: Tensor | None, vocab_size: int) -> Loss:
    known = {"targets": targets, "vocab_size": vocab_size}
    if factors is None:
        return lambda hidden, head: chunked.summed_loss(hidden, head, **known)
    return lambda hidden, head: (chunked.token_losses(hidden, head, **known) * factors).sum()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    n_tokens=st.integers(1, 20),
    vocab_size=st.integers(1, 40),
    most=st.integers(1, 1000),
    in_cache=st.integers(1, 1000),
    kind=st.sampled_from(["weight", "bias", "LoRA"]),
)
def test_loss_and_gradient_are_those_of_all_logits(
    seed: int, n_tokens: int, vocab_size: int, most: int, in_cache: int, kind: str
) -> None:
    chunked.MOST_LOGITS, chunked.IN_CACHE = most, in_cache
    hidden, head, targets, factors = drawn(seed, n_tokens, vocab_size)
    if kind == "bias":
        head = nn.Linear(C, vocab_size)
    elif kind == "LoRA":
        head = LoRALinear(head, rank=1, scale=1.0, dropout=0.0)
        head.lora_B.data.normal_()
    for weighted in (None, factors):
        found = with_gradient(in_chunks(targets, weighted, vocab_size), hidden, head)
        ones = torch.ones_like(factors) if weighted is None else weighted
        expected = with_gradient(all_logits(targets, ones), hidden, head)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_head_that_draws_random_numbers_draws_them_once() -> None:
    """The gradient's product with a step is the change of the loss."""
    chunked.MOST_LOGITS = 4 * 9
    hidden, head, targets, _ = drawn(0, 10, 9)
    adapted = LoRALinear(head, rank=2, scale=1.0, dropout=0.5).double()
    adapted.lora_B.data.normal_()

    def seeded(hidden: Tensor, head: nn.Module) -> Tensor:
        torch.manual_seed(1)
        return in_chunks(targets, None, 9)(hidden, head)

    hidden, step = hidden.double(), 1e-6 * torch.randn(2, 10, C, dtype=torch.float64)
    gradient = with_gradient(seeded, hidden, adapted)[1]
    change = seeded(hidden + step, adapted) - seeded(hidden - step, adapted)
    assert change.item() == pytest.approx(2 * (gradient * step).sum().item(), rel=1e-2)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("weights", "autocast", "rounding"),
    [
        (torch.float64, None, 1e-12),
        (torch.float32, torch.bfloat16, 2**-6),
        (torch.bfloat16, None, 2**-6),
        (torch.float32, torch.float16, 2**-9),
    ],
)
def test_each_precision_rounds_no_more_than_all_logits_do(
    weights: torch.dtype, autocast: torch.dtype | None, rounding: float, weighted: bool
) -> None:
    chunked.MOST_LOGITS, chunked.IN_CACHE = 8 * 31, 3 * 31
    hidden, head, targets, factors = drawn(0, 20, 31)
    hidden, head = hidden.to(weights), head.to(weights)
    factors = factors.to(weights) if weighted else torch.ones_like(factors, dtype=weights)
    with torch.autocast("cpu", dtype=autocast) if autocast is not None else nullcontext():
        found = with_gradient(in_chunks(targets, factors if weighted else None, 31), hidden, head)
        expected = with_gradient(all_logits(targets, factors), hidden, head)
    assert [part.dtype for part in found[1:]] == [part.dtype for part in expected[1:]]
    assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-6)
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert (one - other).norm() <= rounding * other.norm()


def test_in_float16_a_gradient_scaler_saves_small_gradients() -> None:
    """Here a token's probability is about 1e-8, which float16 rounds to 0."""
    head, hidden = nn.Linear(1, 3, bias=False), torch.ones(1, 1, 1)
    head.weight.data = torch.tensor([[18.0], [0.0], [18.0]])
    loss = in_chunks(torch.zeros(1, 1, dtype=torch.int64), None, 3)
    with torch.autocast("cpu", dtype=torch.float16):
        gradient = with_gradient(lambda *parts: loss(*parts) * 2**16, hidden, head)[2] / 2**16
    assert gradient[1].item() == pytest.approx(torch.tensor([18.0, 0, 18]).softmax(0)[1].item(), rel=0.01)


def test_extreme_logits_give_finite_losses_and_gradients() -> None:
    hidden, head, targets, _ = drawn(0, 5, 7)
    loss, *gradients = with_gradient(in_chunks(targets, None, 7), 1e4 * hidden, head)
    assert loss > 1000
    assert all(gradient.isfinite().all() for gradient in (loss, *gradients))


def test_a_wrong_target_is_an_error() -> None:
    hidden, head, targets, _ = drawn(0, 5, 7)
    targets[0, 0] = 7
    with pytest.raises(RuntimeError, match="out of bounds"):
        in_chunks(targets, None, 7)(hidden, head)


@pytest.mark.parametrize("frozen", ["head", "trunk"])
def test_what_does_not_train_gets_no_gradient(frozen: str) -> None:
    hidden, head, targets, _ = drawn(0, 5, 7)
    expected = with_gradient(in_chunks(targets, None, 7), hidden, head)
    if frozen == "head":
        head.requires_grad_(False)
        assert torch.equal(with_gradient(in_chunks(targets, None, 7), hidden, head)[1], expected[1])
        assert head.weight.grad is None
    else:
        head.zero_grad()
        in_chunks(targets, None, 7)(hidden, head).backward()
        torch.testing.assert_close(head.weight.grad, expected[2])


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation makes."""

    n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, tuple | list) else (out,):
            self.n = max(self.n, part.numel() if isinstance(part, Tensor) else 0)
        return out


@pytest.mark.parametrize("weighted", [False, True])
def test_all_logits_never_exist(weighted: bool) -> None:
    chunked.MOST_LOGITS = 5 * 301
    hidden, head, targets, factors = drawn(0, 50, 301)
    with Largest() as largest:
        with_gradient(in_chunks(targets, factors if weighted else None, 301), hidden, head)
    assert largest.n == head.weight.numel() == 12 * 301, "5 of the 100 tokens at a time"


@pytest.mark.parametrize("tie_head", [False, True])
def test_a_model_s_gradient_is_that_of_all_logits(tie_head: bool) -> None:
    chunked.MOST_LOGITS = 4 * 20
    model, (inputs, targets) = tiny_gpt(tie_head=tie_head).double(), torch.randint(20, (2, 3, 9))
    targets[0, 1] = targets[1] = IGNORED
    losses = (
        NextToken()(model, (inputs, targets)).sum,
        F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"),
    )
    torch.testing.assert_close(losses[0], losses[1])
    gradients = [torch.autograd.grad(loss, [*model.parameters()]) for loss in losses]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_without_gradient_the_loss_is_the_same() -> None:
    hidden, head, targets, _ = drawn(0, 5, 7)
    loss = in_chunks(targets, None, 7)
    with torch.inference_mode():
        value = loss(hidden, head)
    assert torch.equal(value, with_gradient(loss, hidden, head)[0])


RANK = """
import sys, torch
from torch.nn.parallel import DistributedDataParallel
from gptlab.objective import chunked
from gptlab.objective.next_token import NextToken
from tiny_gpt import tiny_gpt
chunked.MOST_LOGITS = 4 * 20
rank = int(sys.argv[1])
model, batch = tiny_gpt(tie_head=True).double(), torch.arange(144).reshape(2, 8, 9) * 7 % 20
class Step(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = model
    def forward(self, *batch):
        return NextToken()(self.model, batch).sum
Step()(*batch).backward()
expected = [parameter.grad.clone() for parameter in model.parameters()]
model.zero_grad()
torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
step = DistributedDataParallel(Step())
shares = batch[:, 4 * rank : 4 * rank + 4].split(2, dim=1)
with step.no_sync():
    (2 * step(*shares[0])).backward()
(2 * step(*shares[1])).backward()  # DDP averages over ranks
for parameter, whole in zip(model.parameters(), expected):
    torch.testing.assert_close(parameter.grad, whole)
print("equal")
"""


@pytest.mark.slow
def test_two_ranks_have_the_gradient_of_one(tmp_path: Any, pytestconfig: pytest.Config) -> None:
    tests = pytestconfig.rootpath / "tests"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path / "store")],
            cwd=tests,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        out, err = rank.communicate(timeout=120)
        assert out == "equal\n", err
