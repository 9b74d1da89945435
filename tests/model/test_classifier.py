"""A head over labels: what it reads, what padding may not change, and what trains."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.model.base import check_model
from tiny_gpt import PARTS, Averaging, tiny_classifier

POOLS = ("last", "mean", "first")
ATTENTIONS = {"causal": PARTS["attention"], "not causal": Averaging}


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("pool", POOLS)
@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.lists(st.integers(0, 19), min_size=1, max_size=9), min_size=1, max_size=4), extra=st.data())
def test_padding_and_neighbours_leave_the_logits_of_a_text_alone(
    pool: str, attention: str, rows: list[list[int]], extra: Any
) -> None:
    model = tiny_classifier(pool=pool, attention=ATTENTIONS[attention])
    width = max(map(len, rows)) + extra.draw(st.integers(0, 3))
    fill = extra.draw(st.integers(0, 19))
    tokens = torch.tensor([row + [fill] * (width - len(row)) for row in rows])
    together = model(tokens, lengths=torch.tensor([*map(len, rows)]))
    for row, logits in zip(rows, together, strict=True):
        alone = model(torch.tensor([row]), lengths=torch.tensor([len(row)]))[0]
        torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pool", POOLS)
def test_the_head_reads_what_pool_says(pool: str) -> None:
    model = tiny_classifier(pool=pool)
    tokens = torch.tensor([[3, 1, 4, 1, 5]])
    hidden = model.trunk(tokens)[0]
    read = {"last": hidden[-1], "first": hidden[0], "mean": hidden.mean(dim=0)}[pool]
    torch.testing.assert_close(model(tokens, lengths=torch.tensor([5]))[0], model.head(read))


def test_a_causal_model_knows_only_the_first_token_at_the_first_position() -> None:
    tokens = torch.tensor([[3, 1, 4], [3, 7, 9]])
    one, other = tiny_classifier(pool="first")(tokens, lengths=torch.tensor([3, 3]))
    assert torch.equal(one, other)


def test_the_parameters_of_gpt2_small_are_the_textbook_s_without_the_bias() -> None:
    gpt2_small: dict[str, Any] = {"vocab_size": 50257, "context_length": 1024, "n_layers": 12}
    with torch.device("meta"):
        model = tiny_classifier(**gpt2_small, n_heads=12, d_model=768, labels=["ham", "spam"])
    check_model(model)
    sizes = []
    for what in ("all", "last_block", "head"):
        model.tune(what)  # type: ignore[arg-type]
        sizes.append(sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad))
    assert sizes == [124_441_346 - 2, 7_090_946 - 2, 1536]


@pytest.mark.parametrize("labels", [["spam"], ["ham", "spam", "ham"], []])
def test_labels_that_are_no_choice_are_refused(labels: list[str]) -> None:
    with pytest.raises(ValueError, match="must be at least two different names"):
        tiny_classifier(labels=labels)
