"""The exact loss of a text: against a naive loop, and against transformers on the same weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2s import make_gpt2, save_gpt2
from gptlab.checkpoint import load
from gptlab.data.windows import EvalWindows
from gptlab.evaluation import loss as loss_module
from gptlab.evaluation.loss import TextLoss, running_loss
from gptlab.model import GPT

VOCABULARY, CONTEXT = 61, 8


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> GPT:
    directory = tmp_path_factory.mktemp("gpt2")
    save_gpt2(directory, n_positions=CONTEXT)
    return load(directory).model


def some_text(n_tokens: int) -> np.ndarray:
    return np.random.default_rng(n_tokens).integers(0, VOCABULARY, n_tokens).astype(np.uint16)


def loss_of(gpt: GPT, tokens: np.ndarray, *, stride: int, batch_size: int) -> TextLoss:
    windows = EvalWindows(tokens, context_length=CONTEXT, stride=stride)
    starts = range(0, len(windows), batch_size)
    batches = (windows.batch(np.arange(start, min(start + batch_size, len(windows)))) for start in starts)
    return list(running_loss(gpt, batches))[-1]


def naive_loss(gpt: GPT, tokens: list[int], *, stride: int) -> float:
    """Summed over all targets, one token at a time: what stands on its left, and nothing else, goes into the model."""
    total, end = 0.0, 1
    for begin in range(0, len(tokens), stride):
        begin = min(begin, max(0, len(tokens) - 1 - CONTEXT))  # the last window is full
        for target in range(end, min(begin + CONTEXT, len(tokens) - 1) + 1):
            logits = gpt(torch.tensor([tokens[begin:target]]))[0, -1]
            total += float(F.cross_entropy(logits, torch.tensor(tokens[target])))
            end = target + 1
    return total


@settings(max_examples=8, deadline=None)
@given(st.integers(2, 30), st.integers(1, CONTEXT), st.integers(1, 5))
def test_the_strided_loss_is_a_naive_loop_s(gpt: GPT, n_tokens: int, stride: int, batch_size: int) -> None:
    tokens = some_text(n_tokens)
    loss = loss_of(gpt, tokens, stride=stride, batch_size=batch_size)
    with torch.inference_mode():
        expected = naive_loss(gpt, tokens.tolist(), stride=stride)
    assert loss.count == n_tokens - 1
    assert loss.sum == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("stride", [1, 3, CONTEXT])
def test_transformers_finds_the_same_perplexity(gpt: GPT, stride: int) -> None:
    """The loop of the Hugging Face guide on perplexity, with context_length + 1 tokens a window, the last one full."""
    theirs, tokens = make_gpt2(n_positions=CONTEXT), some_text(60)
    ids = torch.tensor(tokens.astype(np.int64))[None]
    total, previous_end = 0.0, 1
    for start in range(0, ids.shape[1], stride):
        start = min(start, ids.shape[1] - 1 - CONTEXT)
        end = start + CONTEXT + 1
        labels = ids[:, start:end].clone()
        labels[:, : previous_end - start] = -100
        with torch.inference_mode():
            logits = theirs(ids[:, start : end - 1]).logits
        total += float(F.cross_entropy(logits[0], labels[0, 1:], reduction="sum"))
        previous_end = end
        if end == ids.shape[1]:
            break
    expected = torch.tensor(total / (len(tokens) - 1)).exp()
    assert loss_of(gpt, tokens, stride=stride, batch_size=4).perplexity == pytest.approx(float(expected), rel=1e-4)


def test_few_logits_at_once_are_all_logits_at_once(gpt: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = some_text(200)
    whole = loss_of(gpt, tokens, stride=3, batch_size=4)
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", 5 * VOCABULARY)
    shapes: list[torch.Size] = []
    handle = gpt.head.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    in_parts = loss_of(gpt, tokens, stride=3, batch_size=4)
    handle.remove()
    assert in_parts.count == whole.count
    assert in_parts.sum == pytest.approx(whole.sum, rel=1e-6)
    assert max(shape[0] for shape in shapes) == 5
    assert sum(shape[0] for shape in shapes) == 199  # no logits but those that count


def test_in_bfloat16_the_loss_is_taken_in_float32(tmp_path: Path) -> None:
    save_gpt2(tmp_path, n_positions=CONTEXT)
    gpt, tokens = load(tmp_path).model, some_text(100)
    exact = loss_of(gpt, tokens, stride=CONTEXT, batch_size=4)
    rounded = loss_of(gpt.to(dtype=torch.bfloat16), tokens, stride=CONTEXT, batch_size=4)
    assert rounded.mean == pytest.approx(exact.mean, rel=0.02)
    assert rounded.mean != exact.mean
