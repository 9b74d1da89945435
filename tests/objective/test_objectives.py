"""What every objective of conf/objective promises."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import choices, conf_node
from gptlab import build
from gptlab.model import LanguageModel
from gptlab.objective import chunked
from gptlab.objective.base import IGNORED
from gptlab.objective.next_token import NextToken
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
    losses = F.cross_entropy(found[0], targets, reduction="none"), NextTokenScratch().cross_entropy(found[1], targets)
    torch.testing.assert_close(losses[1], losses[0])
    for each in losses:
        each.sum().backward()
    torch.testing.assert_close(found[1].grad, found[0].grad)


def test_logits_of_a_head_that_is_watched_come_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook sees the head called, with all logits if they are few."""
    model, batch = tiny_gpt(vocab_size=11), (torch.randint(11, (3, 7)), torch.randint(11, (3, 7)))
    n_logits: list[int] = []
    model.head.register_forward_hook(lambda *arguments: n_logits.append(arguments[-1].numel()))
    loss = NextToken()(model, batch).sum
    monkeypatch.setattr(chunked, "MOST_LOGITS", 9 * 11)
    torch.testing.assert_close(NextToken()(model, batch).sum, loss)
    assert n_logits == [21 * 11, 7 * 11, 7 * 11, 7 * 11]
