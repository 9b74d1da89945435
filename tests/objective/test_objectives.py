"""What every objective of conf/objective promises."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import choices, conf_node
from gptlab import build
from gptlab.model import GPT, LanguageModel
from gptlab.objective import next_token
from gptlab.objective.next_token import IGNORED, NextToken
from gptlab.objective.next_token_scratch import NextTokenScratch
from tiny_gpt import tiny_classifier, tiny_gpt


@pytest.mark.parametrize("name", choices("objective"))
def test_every_objective_sums_counts_and_says_what_is_best(name: str) -> None:
    objective = build.construct(conf_node("objective", name), key="objective")
    torch.manual_seed(0)
    batch: tuple[Tensor, ...] = (torch.randint(7, (6, 5)), torch.randint(7, (6, 5)))
    model: LanguageModel = tiny_gpt(vocab_size=7)
    if name == "dpo":
        batch = (torch.stack(batch, 1), torch.stack(batch[::-1], 1), torch.zeros(6, 2))  # (6, 2, 5) twice, (6, 2)
    if getattr(objective, "unit", "token") == "text":
        batch, model = (batch[0], torch.randint(1, 6, (6,)), torch.randint(3, (6,))), tiny_classifier(vocab_size=7)
    loss = objective(model, batch)
    assert loss.sum.isfinite()
    assert loss.sum.requires_grad
    assert loss.count == objective.count(batch) > 0
    assert set(loss.metrics) == set(objective.metrics)
    halves = [objective(model, tuple(part[rows] for part in batch)) for rows in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(halves[0].sum + halves[1].sum, loss.sum)
    assert halves[0].count + halves[1].count == loss.count
    summary = objective.summary(1.5)
    assert objective.direction in ("min", "max")
    assert objective.best_metric in {f"val/{metric}" for metric in ("loss", *objective.metrics, *summary)}
    assert all(isinstance(value, float) for value in summary.values())


def test_perplexity_is_the_exponential_of_the_loss_and_always_a_number() -> None:
    assert NextToken().summary(2.0)["perplexity"] == pytest.approx(math.exp(2.0))
    assert math.isfinite(NextToken().summary(1e6)["perplexity"])


@pytest.mark.parametrize("objective", [NextToken(), NextTokenScratch()])
def test_next_token_equals_a_hand_written_reference(objective: NextToken) -> None:
    torch.manual_seed(0)
    model = tiny_gpt(vocab_size=7)
    inputs, targets = torch.randint(7, (2, 4)), torch.randint(7, (2, 4))
    targets[0, 1] = targets[1, 3] = IGNORED
    expected = 0.0
    for row in range(2):
        for t in range(4):
            if targets[row, t] != IGNORED:
                expected -= F.log_softmax(model(inputs)[row, t], dim=0)[targets[row, t]].item()
    loss = objective(model, (inputs, targets))
    assert loss.sum.item() == pytest.approx(expected, rel=1e-6)
    assert loss.count == 6


def test_the_cross_entropy_from_scratch_has_torch_s_gradient() -> None:
    logits, targets = 50 * torch.randn(6, 7, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    targets[2] = IGNORED
    found = [logits.clone().requires_grad_() for _ in range(2)]
    for objective, its in zip((NextToken(), NextTokenScratch()), found, strict=True):
        objective.cross_entropy(its, targets).backward()
    torch.testing.assert_close(found[1].grad, found[0].grad)


VOCABULARY = 11


def small_gpt(*, tie_head: bool) -> GPT:
    sizes = {"vocab_size": VOCABULARY, "context_length": 8, "n_layers": 1, "d_model": 12}
    return tiny_gpt(**sizes, tie_head=tie_head).double()


def some_batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    inputs, targets = torch.randint(VOCABULARY, (3, 7)), torch.randint(VOCABULARY, (3, 7))
    targets[0, 1] = targets[2, 6] = targets[1] = IGNORED
    return inputs, targets


def step(model: GPT) -> tuple[float, dict[str, Tensor], list[int]]:
    """The loss, the gradients, and how many logits the head made each time it was called."""
    n_logits: list[int] = []
    handle = model.head.register_forward_hook(lambda *arguments: n_logits.append(arguments[-1].numel()))
    loss = NextToken()(model, some_batch())
    forward_alone = len(n_logits)
    model.zero_grad()
    loss.sum.backward()
    handle.remove()
    assert loss.count == 21 - 9
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return loss.sum.item(), gradients, n_logits[:forward_alone]


@pytest.mark.parametrize(("most_logits", "chunks"), [(10 * VOCABULARY, [10, 10, 1]), (1, [1] * 21), (1000, [21])])
def test_logits_in_chunks_change_neither_loss_nor_gradient(
    monkeypatch: pytest.MonkeyPatch, most_logits: int, chunks: list[int]
) -> None:
    model = small_gpt(tie_head=True)
    loss, gradients, at_once = step(model)
    assert at_once == [21 * VOCABULARY], "a device without a limit computes them in one product"
    monkeypatch.setitem(next_token.MOST_LOGITS, "cpu", most_logits)
    chunked_loss, chunked_gradients, parts = step(model)
    assert parts == [n * VOCABULARY for n in chunks]
    assert chunked_loss == pytest.approx(loss, rel=1e-6)  # cross-entropy is taken in float32
    torch.testing.assert_close(chunked_gradients, gradients, rtol=1e-5, atol=1e-7)
