"""What a model does with one text, in numbers. L layers, H heads, T tokens, V vocabulary, K tokens that are listed."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gptlab.model import LanguageModel

MAX_TOKENS = 128
"""Longer maps cannot be read, and those of every layer and head grow with the square of it."""


@dataclass(frozen=True)
class Inspection:
    """Everything on the CPU; losses in nats, ranks from 1.

    Attributes:
        ids: the text, (T,).
        attention: what each token takes from each token before it, rows sum to 1, (L, H, T, T).
        losses: of the tokens after the first, (T - 1,).
        ranks: of the same tokens among all of the vocabulary, 1 where they were the most likely, (T - 1,).
        next_ids: the K most likely tokens after each token, the most likely first, (T, K).
        next_probabilities: of these, (T, K).
        layer_ids: the most likely next token if the model ended after the embeddings (row 0) or after so many blocks,
            (L + 1, T).
        layer_probabilities: of these, (L + 1, T).
        layer_losses: of the tokens after the first, if the model ended there, (L + 1, T - 1); the last row is `losses`.
    """

    ids: Tensor
    attention: Tensor
    losses: Tensor
    ranks: Tensor
    next_ids: Tensor
    next_probabilities: Tensor
    layer_ids: Tensor
    layer_probabilities: Tensor
    layer_losses: Tensor


@torch.no_grad()
def look(model: LanguageModel, ids: list[int], *, top_k: int) -> Inspection:
    """Run a model once over a text, and keep what it did on the way.

    The prediction of each layer is the logit lens (nostalgebraist 2020, "interpreting GPT: the logit lens"): the final
    norm and the head, applied to the residual stream as it leaves that layer.

    Args:
        model: on any device; it is not changed.
        ids: T tokens of one text, from 1.
        top_k: K, how many next tokens are listed; at most V are.

    Raises:
        ValueError: where the tokens do not fit into the context, or where the model's attention has no weights to show.
    """
    tokens = torch.tensor([ids], device=model.device)  # (1, T)
    captured = model.capture(tokens)
    assert captured.attention is not None
    targets = tokens[0, 1:]  # (T - 1,)

    layers = []
    for hidden in captured.hidden:
        log_probabilities = model.head(hidden).float().log_softmax(dim=-1)  # (T, V); in the end, the model's own
        layers.append(_predict(log_probabilities, targets))
    of_targets = log_probabilities[:-1].gather(1, targets[:, None])  # (T - 1, 1)
    top = log_probabilities.topk(min(top_k, log_probabilities.shape[1]))  # (T, K)
    layer_ids, layer_probabilities, layer_losses = (torch.stack(column).cpu() for column in zip(*layers, strict=True))
    return Inspection(
        ids=tokens[0].cpu(),
        attention=captured.attention,
        losses=layer_losses[-1],
        ranks=1 + (log_probabilities[:-1] > of_targets).sum(dim=1).cpu(),
        next_ids=top.indices.cpu(),
        next_probabilities=top.values.exp().cpu(),
        layer_ids=layer_ids,
        layer_probabilities=layer_probabilities,
        layer_losses=layer_losses,
    )


@torch.no_grad()
def attention_maps(model: LanguageModel, ids: list[int]) -> Tensor:
    """What each token of a text takes from each before it, by every layer and head: (L, H, T, T), rows sum to 1.

    Raises:
        ValueError: as `look` does.
    """
    attention = model.capture(torch.tensor([ids], device=model.device)).attention
    assert attention is not None
    return attention


def cost_of_a_guess(vocab_size: int) -> float:
    """The loss of one who knows nothing, ln V; of a vocabulary of one token, where no loss is, that of two."""
    return math.log(max(vocab_size, 2))


def _predict(log_probabilities: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(T, V) -> the most likely next tokens (T,), their probabilities (T,), and the targets' losses (T - 1,)."""
    best = log_probabilities.max(dim=-1)
    losses = -log_probabilities[:-1].gather(1, targets[:, None])[:, 0]
    return best.indices, best.values.exp(), losses
