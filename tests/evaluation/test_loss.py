"""The exact loss of a text: against transformers on the same weights."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

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


@pytest.mark.parametrize("stride", [3, CONTEXT])
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
