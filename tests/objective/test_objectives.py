"""What every objective of conf/objective promises."""

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import get_class
from torch import Tensor, nn

from conftest import choices, conf_node
from gptlab.objective.next_token import IGNORED, NextToken


class Table(nn.Module):
    """Logits straight from a table: tokens (B, T) -> (B, T, V)."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table(tokens)


@pytest.mark.parametrize("name", choices("objective"))
def test_loss_is_finite_summed_and_counted(name: str) -> None:
    objective = get_class(conf_node("objective", name)["_target_"])()
    torch.manual_seed(0)
    batch = (torch.randint(7, (6, 5)), torch.randint(7, (6, 5)))
    model = Table(7)
    loss = objective(model, batch)
    assert loss.sum.isfinite()
    assert loss.sum.requires_grad
    assert loss.count == objective.count(batch) > 0
    assert set(loss.metrics) == set(objective.metrics)
    halves = [objective(model, tuple(part[rows] for part in batch)) for rows in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(halves[0].sum + halves[1].sum, loss.sum)
    assert halves[0].count + halves[1].count == loss.count


def test_next_token_equals_a_hand_written_reference() -> None:
    torch.manual_seed(0)
    model = Table(7)
    inputs, targets = torch.randint(7, (2, 4)), torch.randint(7, (2, 4))
    targets[0, 1] = targets[1, 3] = IGNORED
    expected = 0.0
    for row in range(2):
        for t in range(4):
            if targets[row, t] != IGNORED:
                expected -= F.log_softmax(model(inputs)[row, t], dim=0)[targets[row, t]].item()
    loss = NextToken()(model, (inputs, targets))
    assert loss.sum.item() == pytest.approx(expected, rel=1e-6)
    assert loss.count == 6
