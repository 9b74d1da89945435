"""Preferences: the loss against a reference in double precision, and what it promises."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gptlab.data.documents import Document, Rows
from gptlab.data.preferences import Pairs
from gptlab.model import GPT
from gptlab.objective.dpo import DPO
from tiny_gpt import decisive_gpt, tiny_gpt


def pairs(*, swapped: bool = False) -> Pairs:
    draw = np.random.default_rng(0)

    documents = [
        Document(draw.integers(20, size=n).tolist(), n_prompt=3, n_uncut=n) for n in draw.integers(4, 12, size=10)
    ]
    if swapped:
        documents = [documents[i ^ 1] for i in range(10)]
    return Pairs(Rows(documents, 16, mask_prompt=True, pack=False))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "references"


def prepared(objective: DPO, model: GPT, examples: Pairs, cache: Path) -> tuple[Tensor, ...]:
    data: Any = SimpleNamespace(train=examples, val=examples, test=None)
    objective.prepare(model, data, cache)
    return examples.batch(np.arange(5))


@pytest.mark.parametrize("average", [False, True])
def test_the_first_loss_is_ln_2(average: bool, cache: Path) -> None:
    objective, model = DPO(beta=0.1, average=average), tiny_gpt().train()
    loss = objective(model, prepared(objective, model, pairs(), cache))
    assert model.training
    assert (loss.sum / loss.count).item() == pytest.approx(math.log(2), abs=1e-6)
    assert loss.metrics["margin"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("average", [False, True])
def test_it_equals_a_reference_in_double_precision(average: bool, cache: Path) -> None:
    objective, before, now = DPO(beta=0.3, average=average), decisive_gpt(), tiny_gpt().eval()
    batch = prepared(objective, before, pairs(), cache)
    losses, margins = [], []
    with torch.no_grad():
        for row in range(5):
            ratios = []
            for inputs, targets in zip(batch[0].unbind(1), batch[1].unbind(1), strict=True):
                columns = (targets[row] != -100).nonzero()[:, 0]
                its = [
                    model.double()(inputs[row : row + 1])[0].log_softmax(-1)[columns, targets[row, columns]]
                    for model in (now, before)
                ]
                ratio = its[0] - its[1]
                ratios.append((ratio.mean() if average else ratio.sum()).item())
            margins.append(0.3 * (ratios[0] - ratios[1]))
            losses.append(math.log1p(math.exp(-margins[-1])))
    loss = objective(now.float(), batch)
    assert loss.sum.item() == pytest.approx(sum(losses), rel=1e-4)
    assert loss.metrics["margin"].item() == pytest.approx(sum(margins), rel=1e-4, abs=1e-4)
    assert loss.metrics["accuracy"] == sum(margin > 0 for margin in margins)
    apart = loss.metrics["reward_chosen"] - loss.metrics["reward_rejected"]
    torch.testing.assert_close(apart, loss.metrics["margin"])
    assert loss.count == objective.count(batch) == 5


def test_swapped_pairs_mirror_the_margin(cache: Path) -> None:
    objective, before, now = DPO(beta=0.1, average=False), decisive_gpt(), tiny_gpt().eval()
    ours, theirs = (
        objective(now, prepared(objective, before, pairs(swapped=swapped), cache)) for swapped in (False, True)
    )
    torch.testing.assert_close(ours.metrics["margin"], -theirs.metrics["margin"])
    assert ours.metrics["reward_chosen"] == theirs.metrics["reward_rejected"]


def test_a_row_that_does_not_count_adds_nothing(cache: Path) -> None:
    objective, model = DPO(beta=0.1, average=True), tiny_gpt()
    examples = pairs()
    prepared(objective, model, examples, cache)
    loss = objective(model, examples.batch(np.array([], dtype=int)))
    assert (loss.sum, loss.count, loss.metrics["accuracy"]) == (0, 0, 0)


def test_a_reference_is_measured_once_for_the_same_weights_and_pairs(cache: Path) -> None:
    objective, model = DPO(beta=0.1, average=False), tiny_gpt()
    first = prepared(objective, model, pairs(), cache)[2]
    (file,) = cache.iterdir()
    np.save(file, first.numpy() + 1)
    assert torch.equal(prepared(DPO(beta=0.5, average=False), model, pairs(), cache)[2], first + 1)
    prepared(DPO(beta=0.1, average=True), model, pairs(), cache)
    prepared(objective, model, pairs(swapped=True), cache)
    model.head.weight.data += 1
    prepared(objective, model, pairs(), cache)
    assert len([*cache.iterdir()]) == 4


def test_beta_must_be_more_than_0() -> None:
    with pytest.raises(ValueError, match=r"beta=0 must be more than 0"):
        DPO(beta=0, average=False)
