"""Labels of texts: the loss, and what is measured of the answers."""

import pytest
import torch
import torch.nn.functional as F

from gptlab.model.init import gpt2
from gptlab.objective.base import IGNORED
from gptlab.objective.classification import Classification, confusion, wilson_interval
from tiny_gpt import tiny_classifier

TOKENS = torch.randint(20, (5, 7), generator=torch.Generator().manual_seed(0))
LENGTHS, LABELS = torch.tensor([7, 3, 1, 5, 7]), torch.tensor([0, 2, IGNORED, 1, 2])


def test_the_loss_equals_a_hand_written_reference() -> None:
    model = tiny_classifier()
    loss = Classification(best="loss")(model, (TOKENS, LENGTHS, LABELS))
    expected, right = 0.0, 0
    for row in (0, 1, 3, 4):
        logits = model(TOKENS[row : row + 1, : LENGTHS[row]], lengths=LENGTHS[row : row + 1])[0]
        expected -= F.log_softmax(logits, dim=0)[LABELS[row]].item()
        right += int(logits.argmax() == LABELS[row])
    assert loss.sum.item() == pytest.approx(expected, rel=1e-5)
    assert (loss.count, loss.metrics["accuracy"]) == (4, right)


def test_best_is_the_lowest_loss_or_the_highest_accuracy() -> None:
    assert (Classification(best="loss").best_metric, Classification(best="loss").direction) == ("val/loss", "min")
    by_accuracy = Classification(best="accuracy")
    assert (by_accuracy.best_metric, by_accuracy.direction) == ("val/accuracy", "max")


def test_confusion_counts_each_text_once() -> None:
    model, labels = tiny_classifier(), torch.tensor([0, 2, 1, 1, 2])
    given = model(TOKENS, lengths=LENGTHS).argmax(dim=-1)
    halves = [(TOKENS[rows], LENGTHS[rows], labels[rows]) for rows in (slice(0, 2), slice(2, 5))]
    counts = confusion(model, halves, 3)
    assert counts.sum() == 5
    for row in range(3):
        for column in range(3):
            assert counts[row, column] == ((labels == row) & (given == column)).sum()


@pytest.mark.parametrize(
    ("n_right", "n", "low", "high"), [(287, 300, 0.9273, 0.9745), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)]
)
def test_wilson_s_interval(n_right: int, n: int, low: float, high: float) -> None:
    """The ends solve (p - share)^2 = z^2 p (1 - p) / n."""
    interval = wilson_interval(n_right, n)
    assert interval == pytest.approx((low, high), abs=5e-5)
    for end in interval:
        assert (end - n_right / n) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / n, abs=1e-9)


UP = 0.8


def two_chains(n: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Walks of three steps on a ring of three letters: label 1 goes up with probability UP, label 0 with 1 - UP.

    Every letter is equally frequent at each place under both labels. Each step says as much as any other, so the best
    guess is the direction of at least two steps.
    """
    labels = torch.randint(2, (n,), generator=generator)
    goes_up = torch.rand(n, 3, generator=generator) < torch.where(labels == 1, UP, 1 - UP)[:, None]
    start = torch.randint(3, (n, 1), generator=generator)
    walk = torch.cat([start, start + torch.where(goes_up, 1, -1).cumsum(dim=1)], dim=1) % 3  # (n, 4)
    return walk, torch.full((n,), 4), labels


def test_two_chains_are_told_apart_as_well_as_they_can_be_and_not_by_their_first_letter() -> None:
    best = UP**3 + 3 * UP**2 * (1 - UP)
    for pool, expected, n_steps in (("last", best, 400), ("first", 0.5, 50)):
        generator = torch.Generator().manual_seed(0)
        sizes = {"vocab_size": 3, "context_length": 4, "d_model": 32, "labels": ["down", "up"]}
        model = tiny_classifier(pool=pool, **sizes)
        gpt2(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=n_steps)
        for _ in range(n_steps):
            loss = Classification(best="loss")(model, two_chains(64, generator))
            optimizer.zero_grad()
            (loss.sum / loss.count).backward()
            optimizer.step()
            schedule.step()
        counts = confusion(model, [two_chains(2000, generator)], 2)
        low, high = wilson_interval(int(counts.diagonal().sum()), 2000)
        assert low <= expected <= high, pool
